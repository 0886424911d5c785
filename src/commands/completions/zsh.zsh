#compdef qwenauth

# The words of the line go to `qwenauth __complete`, which prints the values that can complete it: a kind, then one
# value per line, after a tab its description.
_qwenauth() {
    local kind value about
    local -a values shown
    # After `--` comes another program with its own arguments.
    local -i at=${words[(ie)--]}
    if (( at > 2 && at < CURRENT )); then
        shift $at words
        (( CURRENT -= at ))
        _normal
        return
    fi
    {
        read -r kind
        while IFS=$'\t' read -r value about; do
            values+=("$value")
            # A description that is wider than the terminal would be broken in the middle of a word.
            about="$value${about:+  -- $about}"
            shown+=("${about[1,COLUMNS > 0 ? COLUMNS - 1 : -1]}")
        done
    } < <(qwenauth __complete -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)
    case "$kind" in
        commands) _command_names -e ;;
        files) _files ;;
        values) compadd -l -d shown -a values ;;
    esac
}

if [ "$funcstack[1]" = "_qwenauth" ]; then
    _qwenauth "$@"
else
    compdef _qwenauth qwenauth
fi
