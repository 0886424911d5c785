# What CI runs, by hand; `.ci/run` is all of it.

default:
    @just --list --unsorted

# Formatting, lints and documentation, with warnings denied.
lint:
    .ci/run fmt clippy doc

# The program from outside; needs nothing but Rust.
test:
    cargo test

# Real programs (Qwen Code, opencode, SDKs …) against this one, or those whose test names begin with NAMES.
clients *NAMES:
    cargo build
    tests/clients/run {{ NAMES }}

# A team's gateways on machines of their own (network namespaces), or those whose test names begin with NAMES; needs root.
team *NAMES:
    cargo build
    tests/team/run {{ NAMES }}

# Every package, installed into an empty root and removed again, or those whose test names begin with NAMES; needs root.
packages *NAMES:
    cargo build
    tests/packaging/run {{ NAMES }}

# A real Chromium approves and denies logins on the practice provider's page.
browser:
    cargo build
    tests/browser/approve.py

# The generated files: completions/ and man/.
generate:
    cargo build
    for shell in bash:qwenauth.bash zsh:_qwenauth fish:qwenauth.fish powershell:_qwenauth.ps1 elvish:qwenauth.elv nushell:qwenauth.nu; do \
        target/debug/qwenauth completions ${shell%%:*} > completions/${shell#*:}; \
    done
    target/debug/qwenauth man man

# The picture of the README, from a real run; needs tmux.
pictures:
    cargo build
    docs/images/make

# The tables of speed and size; needs a C compiler and Python.
bench:
    benches/run

# Everything that has to hold before a change goes in.
ci:
    .ci/run

# What takes too long for every change.
long ROUNDS="10":
    .ci/long {{ ROUNDS }}
