# What CI runs, by hand.

# The generated files: completions/ and man/.
generate:
    cargo build
    for shell in bash:qwenauth.bash zsh:_qwenauth fish:qwenauth.fish powershell:_qwenauth.ps1 elvish:qwenauth.elv nushell:qwenauth.nu; do \
        target/debug/qwenauth completions ${shell%%:*} > completions/${shell#*:}; \
    done
    target/debug/qwenauth man man
