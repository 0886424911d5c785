#!/bin/sh
# Installs qwenauth @VERSION@ below one directory, after comparing the download with the checksum written in here.
#
#   install.sh [--prefix DIR] [--from URL]   install, or replace an older version (DIR: ~/.local)
#   install.sh --uninstall [--prefix DIR]    remove every file that was installed, and nothing else
#
# Needs no root, edits no start-up file of a shell, and leaves nothing behind when it fails or is interrupted.
set -eu

version='@VERSION@'
from='@DOWNLOAD@'
# TARGET SHA-256, one a line
sums='@SUMS@'

say() { printf 'install.sh: %s\n' "$1" >&2; }
fail() {
  say "error: $1"
  [ $# -lt 2 ] || say "hint: $2"
  exit 1
}

target() {
  system=$(uname -s)
  machine=$(uname -m)
  case $machine in
    x86_64 | amd64) cpu=x86_64 ;;
    aarch64 | arm64) cpu=aarch64 ;;
    *) fail "there is no build for $machine" 'build it: cargo install --locked --path CLONE' ;;
  esac
  case $system in
    Linux) echo "$cpu-unknown-linux-musl" ;;
    Darwin)
      # A shell under Rosetta sees another processor than there is.
      if [ "$(sysctl -n hw.optional.arm64 2>/dev/null || true)" = 1 ]; then cpu=aarch64; fi
      echo "$cpu-apple-darwin"
      ;;
    *) fail "there is no build for $system that this script installs" ;;
  esac
}

download() {
  case $1 in
    # What stands before `@` only looks like the host.
    http*@*) fail "$1 has user information in it" ;;
    https://*) protocol='=https' ;;
    http://127.0.0.1[:/]* | http://localhost[:/]*) protocol='=http' ;;
    /*) cp "$1" "$2" || fail "cannot copy $1"; return ;;
    *) fail "$1 is not an https address" ;;
  esac
  if command -v curl >/dev/null; then
    curl --proto "$protocol" --proto-redir "$protocol" --tlsv1.2 --fail --silent --show-error --location \
      --connect-timeout 20 --max-time 600 --retry 2 --output "$2" "$1" || fail "cannot download $1"
  elif command -v wget >/dev/null; then
    case $protocol in
      # Only curl can promise that no redirect leads away from https; the checksum decides with either.
      *) wget --quiet --timeout=20 --tries=3 --output-document="$2" "$1" || fail "cannot download $1" ;;
    esac
  else
    fail 'neither curl nor wget is installed'
  fi
}

sha256() {
  if command -v sha256sum >/dev/null; then
    set -- sha256sum "$1"
  elif command -v shasum >/dev/null; then
    set -- shasum -a 256 "$1"
  elif command -v openssl >/dev/null; then
    set -- openssl dgst -sha256 -r "$1"
  else
    fail 'none of sha256sum, shasum and openssl is installed, so the download cannot be checked'
  fi
  "$@" | cut -d ' ' -f 1
}

# Removes what the list of an earlier installation names, but not what is in the list $1.
remove_installed() {
  [ -f "$list" ] || return 0
  while IFS= read -r file; do
    case $file in
      '' | /* | *..*) continue ;;
    esac
    if [ -n "$1" ] && grep -qxF -- "$file" "$1"; then continue; fi
    rm -f -- "$prefix/$file"
    directory=${file%/*}
    # Only directories that hold nothing else go, up to the prefix.
    while [ "$directory" != "$file" ] && rmdir -- "$prefix/$directory" 2>/dev/null; do
      file=$directory
      directory=${directory%/*}
    done
  done <"$list"
}

uninstall() {
  [ -f "$list" ] || fail "qwenauth was not installed in $prefix by this script" 'pass its directory with --prefix DIR'
  remove_installed ''
  say "removed; your logins are kept (qwenauth logout --all would have removed them)"
}

# Files of the archive → where they go, relative to the prefix.
lay_out() {
  mkdir -p "$work/new/bin" "$work/new/share/man/man1" "$work/new/share/bash-completion/completions" \
    "$work/new/share/zsh/site-functions" "$work/new/share/fish/vendor_completions.d" "$work/new/share/doc/qwenauth"
  cp "$1/qwenauth" "$work/new/bin/qwenauth"
  cp "$1"/man/*.1 "$work/new/share/man/man1/"
  cp "$1/completions/qwenauth.bash" "$work/new/share/bash-completion/completions/qwenauth"
  cp "$1/completions/_qwenauth" "$work/new/share/zsh/site-functions/_qwenauth"
  cp "$1/completions/qwenauth.fish" "$work/new/share/fish/vendor_completions.d/qwenauth.fish"
  cp "$1/LICENSE" "$work/new/share/doc/qwenauth/LICENSE"
  chmod 755 "$work/new/bin/qwenauth"
  # The list comes last in itself, so that removing by it ends with it; the program comes last of all into place.
  (cd "$work/new" && find share -type f | LC_ALL=C sort && echo bin/qwenauth && echo "$list_name") >"$work/list"
}

install() {
  if [ -e "$prefix/bin/qwenauth" ] && ! { [ -f "$list" ] && grep -qx bin/qwenauth "$list"; }; then
    fail "$prefix/bin/qwenauth was not installed by this script and was kept" 'remove it the way it was installed, or pass --prefix DIR'
  fi
  [ -n "$from" ] || fail 'this script contains no download URL' 'pass --from URL'
  target=$(target)
  expected=$(printf '%s\n' "$sums" | sed -n "s/^$target //p")
  [ -n "$expected" ] || fail "this release has no build for $target"
  archive="qwenauth-$version-$target.tar.gz"

  made=
  [ -d "$prefix" ] || made=$prefix
  mkdir -p "$prefix" 2>/dev/null && [ -w "$prefix" ] || fail "cannot write to $prefix" 'pass --prefix DIR'
  # Beside its destination, so that each file is put into place by one rename.
  work=$(mktemp -d "$prefix/.qwenauth-install.XXXXXX") || fail "cannot write to $prefix"
  # A directory that was made for this goes again if nothing came into it.
  trap 'rm -rf -- "$work"; [ -z "$made" ] || rmdir -- "$made" 2>/dev/null || true' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP

  download "$from/$archive" "$work/$archive"
  found=$(sha256 "$work/$archive") || exit 1
  [ "$found" = "$expected" ] || fail "the checksum of $archive is wrong; nothing was installed" "expected $expected, found $found"
  tar -xzf "$work/$archive" -C "$work"
  lay_out "$work/qwenauth-$version-$target"
  "$work/new/bin/qwenauth" --version >/dev/null || fail 'the program does not start here; nothing was installed'

  mkdir -p "$prefix/share/doc/qwenauth"
  remove_installed "$work/list"
  # An interrupted run can be repeated or undone: the list is there before the files are.
  mv -f "$work/list" "$list"
  while IFS= read -r file; do
    [ "$file" != "$list_name" ] || continue
    mkdir -p "$prefix/${file%/*}"
    mv -f "$work/new/$file" "$prefix/$file"
  done <"$list"

  say "installed qwenauth $version: $prefix/bin/qwenauth"
  case ":${PATH:-}:" in
    *":$prefix/bin:"*) ;;
    *) say "hint: $prefix/bin is not on PATH; add it: export PATH=\"$prefix/bin:\$PATH\"" ;;
  esac
}

main() {
  action=install prefix=
  while [ $# -gt 0 ]; do
    case $1 in
      --prefix | --from)
        [ $# -ge 2 ] || fail "$1 needs a value"
        if [ "$1" = --prefix ]; then prefix=$2; else from=${2%/}; fi
        shift
        ;;
      --uninstall) action=uninstall ;;
      --help | -h)
        echo 'install.sh [--prefix DIR] [--from URL]   install qwenauth below DIR (default: ~/.local)'
        echo 'install.sh --uninstall [--prefix DIR]    remove what was installed'
        exit 0
        ;;
      *) fail "unknown option $1" 'install.sh --help lists them' ;;
    esac
    shift
  done
  if [ -z "$prefix" ]; then
    [ -n "${HOME:-}" ] || fail 'HOME is not set' 'pass --prefix DIR'
    prefix=$HOME/.local
  fi
  case $prefix in
    /*) ;;
    *) prefix=$PWD/$prefix ;;
  esac
  list_name=share/doc/qwenauth/installed-files
  list=$prefix/$list_name
  "$action"
}

# Last, so that a download cut short runs nothing.
main "$@"
