class Qwenauth < Formula
  desc "@DESCRIPTION@"
  homepage "@REPOSITORY@"
  version "@VERSION@"
  license "@LICENSE@"

  on_macos do
    on_arm do
      url "@DOWNLOAD@/qwenauth-@VERSION@-aarch64-apple-darwin.tar.gz"
      sha256 "@SHA256 aarch64-apple-darwin@"
    end
    on_intel do
      url "@DOWNLOAD@/qwenauth-@VERSION@-x86_64-apple-darwin.tar.gz"
      sha256 "@SHA256 x86_64-apple-darwin@"
    end
  end

  on_linux do
    on_arm do
      url "@DOWNLOAD@/qwenauth-@VERSION@-aarch64-unknown-linux-musl.tar.gz"
      sha256 "@SHA256 aarch64-unknown-linux-musl@"
    end
    on_intel do
      url "@DOWNLOAD@/qwenauth-@VERSION@-x86_64-unknown-linux-musl.tar.gz"
      sha256 "@SHA256 x86_64-unknown-linux-musl@"
    end
  end

  def install
    bin.install "qwenauth"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/qwenauth.bash" => "qwenauth"
    zsh_completion.install "completions/_qwenauth"
    fish_completion.install "completions/qwenauth.fish"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/qwenauth --version")
    system bin/"qwenauth", "sandbox", "--tour"
  end
end
