# The words of the line go to `qwenauth __complete`, which prints the values that can complete it: a kind, then one
# value per line, after a tab its description.
function __fish_qwenauth
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    # After `--` comes another program with its own arguments.
    if set -l at (contains -i -- -- $words)
        set -l program $words[(math $at + 1)..-1] $current
        complete -C (string join -- ' ' (string escape -- $program[1..-2]) $program[-1])
        return
    end
    set -l found (qwenauth __complete -- $words[2..] $current 2>/dev/null)
    switch "$found[1]"
        case commands
            __fish_complete_command
        case files
            __fish_complete_path $current
        case values
            printf '%s\n' $found[2..]
    end
end

complete -c qwenauth -f -k -a '(__fish_qwenauth)'
