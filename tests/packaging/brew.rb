# A stand-in for Homebrew: evaluates a formula for Linux on x86-64, and installs from a directory of downloads.
#
#   ruby brew.rb FORMULA DOWNLOADS PREFIX      installs below PREFIX/Cellar/NAME
require "digest"
require "fileutils"
require "pathname"
require "tmpdir"

class Place < Pathname
  # Homebrew's own: a name, several, or {from: to}.
  def install(*sources)
    mkpath
    sources.flatten.each do |source|
      pairs = source.is_a?(Hash) ? source : { source => File.basename(source) }
      pairs.each { |from, to| FileUtils.mv(from, self / to) }
    end
  end
end

class Formula
  class << self
    attr_reader :values, :test_block

    %w[desc homepage version license url sha256].each do |name|
      define_method(name) { |value = nil| value ? (@values ||= {})[name] = value : @values[name] }
    end

    def on_linux = yield
    def on_intel = yield
    def on_macos = nil
    def on_arm = nil
    def test(&block) = @test_block = block
  end

  def initialize(prefix) = @prefix = Place.new(prefix)
  def version = self.class.version
  def place(name) = Place.new(@prefix / name)
  def bin = place("bin")
  def man1 = place("share/man/man1")
  def bash_completion = place("etc/bash_completion.d")
  def zsh_completion = place("share/zsh/site-functions")
  def fish_completion = place("share/fish/vendor_completions.d")
  def shell_output(command) = `#{command}`
  def system(*command) = Kernel.system(*command.map(&:to_s), out: File::NULL, err: File::NULL) || abort("failed: #{command}")
  def assert_match(expected, found) = found.include?(expected) || abort("#{found.inspect} lacks #{expected}")
  def run_test = instance_exec(&self.class.test_block)
end

formula, downloads, prefix = ARGV.map { |path| File.expand_path(path) }
load formula
file = File.join(downloads, File.basename(Qwenauth.url))
abort "#{Qwenauth.url}: the checksum is wrong" unless Digest::SHA256.file(file).hexdigest == Qwenauth.sha256
abort "the address is not below the homepage" unless Qwenauth.url.start_with?("#{Qwenauth.homepage}/releases/download/v#{Qwenauth.version}/")
made = Qwenauth.new(File.join(prefix, "Cellar/qwenauth"))
Dir.mktmpdir do |directory|
  system("tar", "-xzf", file, "-C", directory, "--strip-components=1") || abort("tar failed")
  Dir.chdir(directory) { made.install }
end
made.run_test
