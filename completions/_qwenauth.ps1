
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'qwenauth' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'qwenauth'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'qwenauth' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('login', 'login', [CompletionResultType]::ParameterValue, 'Log in and make the profile active')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show where the login stands')
            [CompletionResult]::new('refresh', 'refresh', [CompletionResultType]::ParameterValue, 'Renew the access token now')
            [CompletionResult]::new('logout', 'logout', [CompletionResultType]::ParameterValue, 'Remove a stored credential, revoking it where the provider can')
            [CompletionResult]::new('token', 'token', [CompletionResultType]::ParameterValue, 'Print an access token that is good for a while')
            [CompletionResult]::new('env', 'env', [CompletionResultType]::ParameterValue, 'Print shell statements that export the credential')
            [CompletionResult]::new('exec', 'exec', [CompletionResultType]::ParameterValue, 'Run a program with the credential in its environment')
            [CompletionResult]::new('gateway', 'gateway', [CompletionResultType]::ParameterValue, 'Serve an OpenAI-compatible API on this machine that keeps the credential to itself')
            [CompletionResult]::new('usage', 'usage', [CompletionResultType]::ParameterValue, 'Show what passed through the gateway and what limits leave')
            [CompletionResult]::new('providers', 'providers', [CompletionResultType]::ParameterValue, 'Compare the known providers: price, limits, CI, what works here')
            [CompletionResult]::new('profiles', 'profiles', [CompletionResultType]::ParameterValue, 'List the stored profiles')
            [CompletionResult]::new('use', 'use', [CompletionResultType]::ParameterValue, 'Make a stored profile the active one')
            [CompletionResult]::new('setup', 'setup', [CompletionResultType]::ParameterValue, 'Set up a tool to use the active profile')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Look for what keeps a login from working')
            [CompletionResult]::new('sandbox', 'sandbox', [CompletionResultType]::ParameterValue, 'Try everything against a practice provider on this machine: no account, no network')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print a completion script')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'qwenauth;login' {
            [CompletionResult]::new('--api-key-env', '--api-key-env', [CompletionResultType]::ParameterName, 'Take the API key from this environment variable')
            [CompletionResult]::new('--base-url', '--base-url', [CompletionResultType]::ParameterName, 'Where the API lives, for `custom` or a workspace''s own domain')
            [CompletionResult]::new('--region', '--region', [CompletionResultType]::ParameterName, 'The region the key belongs to (default: found out)')
            [CompletionResult]::new('--key-label', '--key-label', [CompletionResultType]::ParameterName, 'OpenRouter: the name of the new key')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'OpenRouter: the most that the new key may spend, in US dollars')
            [CompletionResult]::new('--qr', '--qr', [CompletionResultType]::ParameterName, 'Draw the verification URL as a QR code on stderr')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Give up after this long, for example `90s` or `5m`')
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'The model that `env` and `exec` name for this profile')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Log in again although a valid login exists')
            [CompletionResult]::new('--api-key-stdin', '--api-key-stdin', [CompletionResultType]::ParameterName, 'Read the API key from stdin')
            [CompletionResult]::new('--code-stdin', '--code-stdin', [CompletionResultType]::ParameterName, 'OpenRouter: read the code that the browser shows from stdin')
            [CompletionResult]::new('--no-browser', '--no-browser', [CompletionResultType]::ParameterName, 'Do not open a browser')
            [CompletionResult]::new('--clipboard', '--clipboard', [CompletionResultType]::ParameterName, 'Copy the code, or the address where there is none, to the clipboard of the terminal (OSC 52)')
            [CompletionResult]::new('--no-verify', '--no-verify', [CompletionResultType]::ParameterName, 'Do not prove the login with a request to the API')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Show the code, keep the login pending and leave: for scripts and agents')
            [CompletionResult]::new('--resume', '--resume', [CompletionResultType]::ParameterName, 'Wait for the pending login; start none')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print events for a script, one JSON object a line')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'qwenauth;status' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('--all', '--all', [CompletionResultType]::ParameterName, 'Show every stored profile')
            [CompletionResult]::new('--check', '--check', [CompletionResultType]::ParameterName, 'Ask the API whether it accepts the credential')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;refresh' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;logout' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--all', '--all', [CompletionResultType]::ParameterName, 'Remove every stored profile')
            [CompletionResult]::new('--local', '--local', [CompletionResultType]::ParameterName, 'Do not ask the provider to revoke the credential')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;token' {
            [CompletionResult]::new('--min-ttl', '--min-ttl', [CompletionResultType]::ParameterName, 'How long the token must be good for (default: 30s)')
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'format')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--short-lived', '--short-lived', [CompletionResultType]::ParameterName, 'Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'qwenauth;env' {
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'Shell or file that reads the output (default: `sh`, on Windows the shell that runs qwenauth)')
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'The model to name in `OPENAI_MODEL`')
            [CompletionResult]::new('--min-ttl', '--min-ttl', [CompletionResultType]::ParameterName, 'How long the token must be good for (default: 10m if it can be had)')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--unset', '--unset', [CompletionResultType]::ParameterName, 'Print statements that remove the variables')
            [CompletionResult]::new('--native', '--native', [CompletionResultType]::ParameterName, 'Add the provider''s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL')
            [CompletionResult]::new('--short-lived', '--short-lived', [CompletionResultType]::ParameterName, 'Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'qwenauth;exec' {
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'The model to name in `OPENAI_MODEL`')
            [CompletionResult]::new('--min-ttl', '--min-ttl', [CompletionResultType]::ParameterName, 'How long the token must be good for (default: 10m if it can be had)')
            [CompletionResult]::new('--rpm', '--rpm', [CompletionResultType]::ParameterName, 'Requests a minute, instead of what is known of the provider')
            [CompletionResult]::new('--rpd', '--rpd', [CompletionResultType]::ParameterName, 'Requests a day, after which the gateway refuses')
            [CompletionResult]::new('--max-wait', '--max-wait', [CompletionResultType]::ParameterName, 'Longest wait that the provider may ask for before it is asked again')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time until an answer begins, and between two pieces of it')
            [CompletionResult]::new('--max-body', '--max-body', [CompletionResultType]::ParameterName, 'Longest request')
            [CompletionResult]::new('--replay-limit', '--replay-limit', [CompletionResultType]::ParameterName, 'Longest request that is kept to be sent again')
            [CompletionResult]::new('--log', '--log', [CompletionResultType]::ParameterName, 'Write a JSON line per request to this file, or with `-` to stdout; never a body or a key')
            [CompletionResult]::new('--fallback', '--fallback', [CompletionResultType]::ParameterName, 'Other profiles that serve when the limit, plan or service of this one is over, by the map `[fallback.models]` in config.toml')
            [CompletionResult]::new('--warn-at', '--warn-at', [CompletionResultType]::ParameterName, 'Say so, once a day, when this much of the day''s limit is used')
            [CompletionResult]::new('--as', '--as', [CompletionResultType]::ParameterName, 'The known program that CMD is, where its name does not tell')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--gateway', '--gateway', [CompletionResultType]::ParameterName, 'Keep the credential in a gateway that lives as long as the program')
            [CompletionResult]::new('--preserve-env', '--preserve-env', [CompletionResultType]::ParameterName, 'Keep the key and base URL if one of any family is already set')
            [CompletionResult]::new('--native', '--native', [CompletionResultType]::ParameterName, 'Add the provider''s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL')
            [CompletionResult]::new('--no-pacing', '--no-pacing', [CompletionResultType]::ParameterName, 'Count requests, but let none wait')
            [CompletionResult]::new('--short-lived', '--short-lived', [CompletionResultType]::ParameterName, 'Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)')
            [CompletionResult]::new('--allow-env-file', '--allow-env-file', [CompletionResultType]::ParameterName, 'Start a known program although a file that it reads, or an option of its own, replaces host or key')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say which variables were set')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say which variables were set')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;gateway' {
            [CompletionResult]::new('--listen', '--listen', [CompletionResultType]::ParameterName, 'Where to listen; port 0 takes a free one')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Keep the key in this file over restarts; it is not printed')
            [CompletionResult]::new('--allow-host', '--allow-host', [CompletionResultType]::ParameterName, 'Answer to this host name as well; can be repeated')
            [CompletionResult]::new('--drain', '--drain', [CompletionResultType]::ParameterName, 'How long requests may take to finish after Ctrl-C')
            [CompletionResult]::new('--rpm', '--rpm', [CompletionResultType]::ParameterName, 'Requests a minute, instead of what is known of the provider')
            [CompletionResult]::new('--rpd', '--rpd', [CompletionResultType]::ParameterName, 'Requests a day, after which the gateway refuses')
            [CompletionResult]::new('--max-wait', '--max-wait', [CompletionResultType]::ParameterName, 'Longest wait that the provider may ask for before it is asked again')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Longest time until an answer begins, and between two pieces of it')
            [CompletionResult]::new('--max-body', '--max-body', [CompletionResultType]::ParameterName, 'Longest request')
            [CompletionResult]::new('--replay-limit', '--replay-limit', [CompletionResultType]::ParameterName, 'Longest request that is kept to be sent again')
            [CompletionResult]::new('--log', '--log', [CompletionResultType]::ParameterName, 'Write a JSON line per request to this file, or with `-` to stdout; never a body or a key')
            [CompletionResult]::new('--fallback', '--fallback', [CompletionResultType]::ParameterName, 'Other profiles that serve when the limit, plan or service of this one is over, by the map `[fallback.models]` in config.toml')
            [CompletionResult]::new('--warn-at', '--warn-at', [CompletionResultType]::ParameterName, 'Say so, once a day, when this much of the day''s limit is used')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--plain-http', '--plain-http', [CompletionResultType]::ParameterName, 'Listen beyond this machine although nothing encrypts what passes')
            [CompletionResult]::new('--show-key', '--show-key', [CompletionResultType]::ParameterName, 'Print the key of `--api-key-file` as well')
            [CompletionResult]::new('--all-profiles', '--all-profiles', [CompletionResultType]::ParameterName, 'Serve every stored profile, at `/p/NAME/v1`')
            [CompletionResult]::new('--metrics', '--metrics', [CompletionResultType]::ParameterName, 'Serve counters for Prometheus at `/metrics`, behind the key')
            [CompletionResult]::new('--install', '--install', [CompletionResultType]::ParameterName, 'Run it as a service of yours from now on, with these options (systemd, launchd)')
            [CompletionResult]::new('--uninstall', '--uninstall', [CompletionResultType]::ParameterName, 'Stop the service and remove it')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('--no-pacing', '--no-pacing', [CompletionResultType]::ParameterName, 'Count requests, but let none wait')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;usage' {
            [CompletionResult]::new('--days', '--days', [CompletionResultType]::ParameterName, 'How many days, today included')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('--check', '--check', [CompletionResultType]::ParameterName, 'Ask the provider what is left, where it can be asked')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;providers' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('--markdown', '--markdown', [CompletionResultType]::ParameterName, 'Print the Markdown table of the README: how each is logged in to, and how far that was tried')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;profiles' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;use' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;setup' {
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'The model the tool starts with')
            [CompletionResult]::new('--gateway', '--gateway', [CompletionResultType]::ParameterName, 'Use a gateway on this address, whose key stays in a file')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--print', '--print', [CompletionResultType]::ParameterName, 'Print what would be written and change nothing')
            [CompletionResult]::new('--remove', '--remove', [CompletionResultType]::ParameterName, 'Undo what was written')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'With `--remove`: also what was edited by hand since')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print the list as JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;doctor' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--fix', '--fix', [CompletionResultType]::ParameterName, 'Repair what is local: modes, stale locks, leftover files, logins nobody completed')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;sandbox' {
            [CompletionResult]::new('--expires-in', '--expires-in', [CompletionResultType]::ParameterName, 'How long access tokens of the practice provider live')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--tour', '--tour', [CompletionResultType]::ParameterName, 'Show each command with its real output, then leave')
            [CompletionResult]::new('--no-approve', '--no-approve', [CompletionResultType]::ParameterName, 'Approve nothing by itself, even without a terminal: every login waits for the page')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;completions' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;help' {
            [CompletionResult]::new('login', 'login', [CompletionResultType]::ParameterValue, 'Log in and make the profile active')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show where the login stands')
            [CompletionResult]::new('refresh', 'refresh', [CompletionResultType]::ParameterValue, 'Renew the access token now')
            [CompletionResult]::new('logout', 'logout', [CompletionResultType]::ParameterValue, 'Remove a stored credential, revoking it where the provider can')
            [CompletionResult]::new('token', 'token', [CompletionResultType]::ParameterValue, 'Print an access token that is good for a while')
            [CompletionResult]::new('env', 'env', [CompletionResultType]::ParameterValue, 'Print shell statements that export the credential')
            [CompletionResult]::new('exec', 'exec', [CompletionResultType]::ParameterValue, 'Run a program with the credential in its environment')
            [CompletionResult]::new('gateway', 'gateway', [CompletionResultType]::ParameterValue, 'Serve an OpenAI-compatible API on this machine that keeps the credential to itself')
            [CompletionResult]::new('usage', 'usage', [CompletionResultType]::ParameterValue, 'Show what passed through the gateway and what limits leave')
            [CompletionResult]::new('providers', 'providers', [CompletionResultType]::ParameterValue, 'Compare the known providers: price, limits, CI, what works here')
            [CompletionResult]::new('profiles', 'profiles', [CompletionResultType]::ParameterValue, 'List the stored profiles')
            [CompletionResult]::new('use', 'use', [CompletionResultType]::ParameterValue, 'Make a stored profile the active one')
            [CompletionResult]::new('setup', 'setup', [CompletionResultType]::ParameterValue, 'Set up a tool to use the active profile')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Look for what keeps a login from working')
            [CompletionResult]::new('sandbox', 'sandbox', [CompletionResultType]::ParameterValue, 'Try everything against a practice provider on this machine: no account, no network')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print a completion script')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'qwenauth;help;login' {
            break
        }
        'qwenauth;help;status' {
            break
        }
        'qwenauth;help;refresh' {
            break
        }
        'qwenauth;help;logout' {
            break
        }
        'qwenauth;help;token' {
            break
        }
        'qwenauth;help;env' {
            break
        }
        'qwenauth;help;exec' {
            break
        }
        'qwenauth;help;gateway' {
            break
        }
        'qwenauth;help;usage' {
            break
        }
        'qwenauth;help;providers' {
            break
        }
        'qwenauth;help;profiles' {
            break
        }
        'qwenauth;help;use' {
            break
        }
        'qwenauth;help;setup' {
            break
        }
        'qwenauth;help;doctor' {
            break
        }
        'qwenauth;help;sandbox' {
            break
        }
        'qwenauth;help;completions' {
            break
        }
        'qwenauth;help;help' {
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
