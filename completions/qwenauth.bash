# The words of the line go to `qwenauth __complete`, which prints the values that can complete it: a kind, then one
# value per line, after a tab its description.
_qwenauth() {
    local at kind value
    COMPREPLY=()
    # After `--` comes another program with its own arguments; bash-completion knows those of many.
    for ((at = 2; at < COMP_CWORD; at++)); do
        [[ "${COMP_WORDS[at]}" == -- ]] || continue
        if declare -F _command_offset >/dev/null; then
            _command_offset $((at + 1))
        elif ((at + 1 == COMP_CWORD)); then
            COMPREPLY=($(compgen -c -- "${COMP_WORDS[COMP_CWORD]}"))
        else
            COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
        fi
        return 0
    done
    {
        read -r kind
        while IFS=$'\t' read -r value _; do
            COMPREPLY+=("$value")
        done
    } < <(qwenauth __complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$2" 2>/dev/null)
    case "$kind" in
        commands) COMPREPLY=($(compgen -c -- "$2")) ;;
        files)
            compopt -o filenames 2>/dev/null
            COMPREPLY=($(compgen -f -- "$2"))
            ;;
    esac
}

complete -F _qwenauth qwenauth
