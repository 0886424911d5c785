
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
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show login status')
            [CompletionResult]::new('refresh', 'refresh', [CompletionResultType]::ParameterValue, 'Renew the access token now')
            [CompletionResult]::new('logout', 'logout', [CompletionResultType]::ParameterValue, 'Remove a stored credential and revoke it if the provider supports that')
            [CompletionResult]::new('token', 'token', [CompletionResultType]::ParameterValue, 'Print a valid access token, renewing it if necessary')
            [CompletionResult]::new('env', 'env', [CompletionResultType]::ParameterValue, 'Print shell statements that export the credential')
            [CompletionResult]::new('exec', 'exec', [CompletionResultType]::ParameterValue, 'Run a program with the credential in its environment')
            [CompletionResult]::new('gateway', 'gateway', [CompletionResultType]::ParameterValue, 'Run a local OpenAI-compatible proxy that holds the credential')
            [CompletionResult]::new('usage', 'usage', [CompletionResultType]::ParameterValue, 'Show gateway usage and remaining limits')
            [CompletionResult]::new('keys', 'keys', [CompletionResultType]::ParameterValue, 'Create and manage keys for the people and jobs that share a gateway')
            [CompletionResult]::new('providers', 'providers', [CompletionResultType]::ParameterValue, 'Compare the known providers: price, limits, CI, login methods available here')
            [CompletionResult]::new('profiles', 'profiles', [CompletionResultType]::ParameterValue, 'List the stored profiles')
            [CompletionResult]::new('use', 'use', [CompletionResultType]::ParameterValue, 'Make a stored profile the active one')
            [CompletionResult]::new('setup', 'setup', [CompletionResultType]::ParameterValue, 'Configure a tool to use the active profile')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Diagnose login problems')
            [CompletionResult]::new('sandbox', 'sandbox', [CompletionResultType]::ParameterValue, 'Try qwenauth with a local practice provider: no account, no network')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print a shell completion script')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'qwenauth;login' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Name under which the login is stored (default: the provider''s name)')
            [CompletionResult]::new('--api-key-env', '--api-key-env', [CompletionResultType]::ParameterName, 'Read the API key from this environment variable')
            [CompletionResult]::new('--api-key-command', '--api-key-command', [CompletionResultType]::ParameterName, 'Command that prints the API key, run without a shell whenever the key is needed; only the command is stored')
            [CompletionResult]::new('--store', '--store', [CompletionResultType]::ParameterName, 'Where to keep the secret (default: `store` in config.toml, else the current store, else `file`); without a key, move the stored secret there')
            [CompletionResult]::new('--base-url', '--base-url', [CompletionResultType]::ParameterName, 'API base URL, for `custom` or a workspace-specific domain')
            [CompletionResult]::new('--region', '--region', [CompletionResultType]::ParameterName, 'Region of the key (default: detected)')
            [CompletionResult]::new('--policy', '--policy', [CompletionResultType]::ParameterName, 'ID of the provider''s policy that trusts this workload')
            [CompletionResult]::new('--audience', '--audience', [CompletionResultType]::ParameterName, 'Audience of the ID token that is requested from GitHub Actions')
            [CompletionResult]::new('--id-token-file', '--id-token-file', [CompletionResultType]::ParameterName, 'File with the ID token, for example of a Kubernetes pod (default: request one from GitHub Actions)')
            [CompletionResult]::new('--id-token-env', '--id-token-env', [CompletionResultType]::ParameterName, 'Environment variable with the ID token, for example of GitLab CI')
            [CompletionResult]::new('--key-label', '--key-label', [CompletionResultType]::ParameterName, 'OpenRouter: name of the new key')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'OpenRouter: spending limit of the new key, in US dollars')
            [CompletionResult]::new('--qr', '--qr', [CompletionResultType]::ParameterName, 'Draw the verification URL as a QR code on stderr')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Give up after this long, for example `90s` or `5m` (default: until the code expires)')
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'Default model of this profile, exported by `env` and `exec`')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Log in even if already logged in')
            [CompletionResult]::new('--api-key-stdin', '--api-key-stdin', [CompletionResultType]::ParameterName, 'Read the API key from stdin; on a terminal, ask for it and do not show it')
            [CompletionResult]::new('--workload-identity', '--workload-identity', [CompletionResultType]::ParameterName, 'Log in as this CI job or pod, with its ID token instead of a secret')
            [CompletionResult]::new('--code-stdin', '--code-stdin', [CompletionResultType]::ParameterName, 'OpenRouter: read the code shown in the browser from stdin')
            [CompletionResult]::new('--no-browser', '--no-browser', [CompletionResultType]::ParameterName, 'Do not open a browser')
            [CompletionResult]::new('--clipboard', '--clipboard', [CompletionResultType]::ParameterName, 'Copy the code, or the address if there is no code, to the terminal''s clipboard (OSC 52)')
            [CompletionResult]::new('--no-verify', '--no-verify', [CompletionResultType]::ParameterName, 'Skip the test request')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Print the code and exit; finish later with `--resume`')
            [CompletionResult]::new('--resume', '--resume', [CompletionResultType]::ParameterName, 'Finish a pending login instead of starting a new one')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print events as JSON, one object per line')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'qwenauth;status' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('--all', '--all', [CompletionResultType]::ParameterName, 'Show every stored profile')
            [CompletionResult]::new('--check', '--check', [CompletionResultType]::ParameterName, 'Check with the API that it accepts the credential')
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
            [CompletionResult]::new('--min-ttl', '--min-ttl', [CompletionResultType]::ParameterName, 'Minimum remaining lifetime of the token (default: 30s)')
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--short-lived', '--short-lived', [CompletionResultType]::ParameterName, 'Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'qwenauth;env' {
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'Output format (default: `sh`, on Windows that of the shell that runs qwenauth)')
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'Model to set in `OPENAI_MODEL`')
            [CompletionResult]::new('--min-ttl', '--min-ttl', [CompletionResultType]::ParameterName, 'Minimum remaining lifetime of the token (default: 10m, best effort)')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--unset', '--unset', [CompletionResultType]::ParameterName, 'Print statements that remove the variables')
            [CompletionResult]::new('--native', '--native', [CompletionResultType]::ParameterName, 'Add the provider''s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL')
            [CompletionResult]::new('--short-lived', '--short-lived', [CompletionResultType]::ParameterName, 'Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'qwenauth;exec' {
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'Model to set in `OPENAI_MODEL`')
            [CompletionResult]::new('--min-ttl', '--min-ttl', [CompletionResultType]::ParameterName, 'Minimum remaining lifetime of the token (default: 10m, best effort)')
            [CompletionResult]::new('--as', '--as', [CompletionResultType]::ParameterName, 'Treat CMD as this known program, if its name does not show it')
            [CompletionResult]::new('--rpm', '--rpm', [CompletionResultType]::ParameterName, 'Requests per minute (default: the provider''s known limit)')
            [CompletionResult]::new('--rpd', '--rpd', [CompletionResultType]::ParameterName, 'Requests per day; further requests are rejected')
            [CompletionResult]::new('--max-wait', '--max-wait', [CompletionResultType]::ParameterName, 'Longest `Retry-After` to honor; longer ones are forwarded to the client')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Timeout for the first byte of a response and between chunks')
            [CompletionResult]::new('--max-body', '--max-body', [CompletionResultType]::ParameterName, 'Maximum size of a request body')
            [CompletionResult]::new('--replay-limit', '--replay-limit', [CompletionResultType]::ParameterName, 'Largest body kept in memory for retries')
            [CompletionResult]::new('--log', '--log', [CompletionResultType]::ParameterName, 'Write one JSON line per request to this file (`-`: stdout), never a body or a key')
            [CompletionResult]::new('--fallback', '--fallback', [CompletionResultType]::ParameterName, 'Profiles to use when the limit or plan of this one is used up or its service is down, for the models in `[fallback.models]` of config.toml')
            [CompletionResult]::new('--warn-at', '--warn-at', [CompletionResultType]::ParameterName, 'Warn once a day, and run the hook `limit_near`, when this share of the daily limit is used (default: never)')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--gateway', '--gateway', [CompletionResultType]::ParameterName, 'Run the program behind its own gateway, so that it never sees the credential')
            [CompletionResult]::new('--preserve-env', '--preserve-env', [CompletionResultType]::ParameterName, 'Keep the key and base URL if either is already set, whatever their names')
            [CompletionResult]::new('--native', '--native', [CompletionResultType]::ParameterName, 'Add the provider''s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL')
            [CompletionResult]::new('--short-lived', '--short-lived', [CompletionResultType]::ParameterName, 'Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)')
            [CompletionResult]::new('--allow-env-file', '--allow-env-file', [CompletionResultType]::ParameterName, 'Start a known program even if one of its files or options overrides host or key')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Show which variables were set')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Show which variables were set')
            [CompletionResult]::new('--no-pacing', '--no-pacing', [CompletionResultType]::ParameterName, 'Count requests without delaying any')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'qwenauth;gateway' {
            [CompletionResult]::new('--listen', '--listen', [CompletionResultType]::ParameterName, 'Address to listen on (port 0 picks a free port), or `unix:PATH` for a socket of this user (not on Windows)')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Serve HTTPS with the certificate in this PEM file (reloaded when it changes)')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of the certificate')
            [CompletionResult]::new('--tls-client-ca', '--tls-client-ca', [CompletionResultType]::ParameterName, 'Accept only clients with a certificate from a CA in this file')
            [CompletionResult]::new('--public-url', '--public-url', [CompletionResultType]::ParameterName, 'URL that clients use for the gateway (default: from the certificate''s first name)')
            [CompletionResult]::new('--serve', '--serve', [CompletionResultType]::ParameterName, 'With `--shared`: renew the login of this machine for the other gateways (`home`), or use the tokens of a gateway that does (`edge`) (default: `home` if the profile is logged in here, else `edge`)')
            [CompletionResult]::new('--api-key-file', '--api-key-file', [CompletionResultType]::ParameterName, 'Persist the key in this file; it is not printed')
            [CompletionResult]::new('--allow-host', '--allow-host', [CompletionResultType]::ParameterName, 'Also accept this `Host` header; can be repeated')
            [CompletionResult]::new('--metrics-listen', '--metrics-listen', [CompletionResultType]::ParameterName, 'Also serve metrics, `/healthz` and `/readyz` at this address, without a key')
            [CompletionResult]::new('--drain', '--drain', [CompletionResultType]::ParameterName, 'Time for open requests to finish after Ctrl-C')
            [CompletionResult]::new('--rpm', '--rpm', [CompletionResultType]::ParameterName, 'Requests per minute (default: the provider''s known limit)')
            [CompletionResult]::new('--rpd', '--rpd', [CompletionResultType]::ParameterName, 'Requests per day; further requests are rejected')
            [CompletionResult]::new('--max-wait', '--max-wait', [CompletionResultType]::ParameterName, 'Longest `Retry-After` to honor; longer ones are forwarded to the client')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'Timeout for the first byte of a response and between chunks')
            [CompletionResult]::new('--max-body', '--max-body', [CompletionResultType]::ParameterName, 'Maximum size of a request body')
            [CompletionResult]::new('--replay-limit', '--replay-limit', [CompletionResultType]::ParameterName, 'Largest body kept in memory for retries')
            [CompletionResult]::new('--log', '--log', [CompletionResultType]::ParameterName, 'Write one JSON line per request to this file (`-`: stdout), never a body or a key')
            [CompletionResult]::new('--fallback', '--fallback', [CompletionResultType]::ParameterName, 'Profiles to use when the limit or plan of this one is used up or its service is down, for the models in `[fallback.models]` of config.toml')
            [CompletionResult]::new('--warn-at', '--warn-at', [CompletionResultType]::ParameterName, 'Warn once a day, and run the hook `limit_near`, when this share of the daily limit is used (default: never)')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--plain-http', '--plain-http', [CompletionResultType]::ParameterName, 'Allow unencrypted HTTP on addresses other than loopback')
            [CompletionResult]::new('--shared', '--shared', [CompletionResultType]::ParameterName, 'Count limits together with other gateways, on the Redis or Valkey server in `[team] shared` of config.toml or in `QWENAUTH_SHARED_URL`')
            [CompletionResult]::new('--show-key', '--show-key', [CompletionResultType]::ParameterName, 'Print the key of `--api-key-file` as well')
            [CompletionResult]::new('--keys', '--keys', [CompletionResultType]::ParameterName, 'Accept the keys of `qwenauth keys`, each within its limits, which are counted on this machine or, with `--shared`, together with the other gateways')
            [CompletionResult]::new('--metrics-keys', '--metrics-keys', [CompletionResultType]::ParameterName, 'With `--keys`: add a metric for the budget of each key')
            [CompletionResult]::new('--all-profiles', '--all-profiles', [CompletionResultType]::ParameterName, 'Serve every stored profile, at `/p/NAME/v1`')
            [CompletionResult]::new('--metrics', '--metrics', [CompletionResultType]::ParameterName, 'Serve Prometheus metrics at `/metrics` (requires the key)')
            [CompletionResult]::new('--install', '--install', [CompletionResultType]::ParameterName, 'Install and start it as a user service with these options (systemd, launchd)')
            [CompletionResult]::new('--uninstall', '--uninstall', [CompletionResultType]::ParameterName, 'Stop the service and remove it')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('--no-pacing', '--no-pacing', [CompletionResultType]::ParameterName, 'Count requests without delaying any')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'qwenauth;usage' {
            [CompletionResult]::new('--days', '--days', [CompletionResultType]::ParameterName, 'Number of days, including today')
            [CompletionResult]::new('--by', '--by', [CompletionResultType]::ParameterName, 'With `--team`: group the usage by this (default: key)')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('--check', '--check', [CompletionResultType]::ParameterName, 'Query the provider for the remaining quota, if supported')
            [CompletionResult]::new('--team', '--team', [CompletionResultType]::ParameterName, 'Show the usage of the keys of people and jobs')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;keys' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('create', 'create', [CompletionResultType]::ParameterValue, 'Create a key and print it once, alone on stdout')
            [CompletionResult]::new('list', 'list', [CompletionResultType]::ParameterValue, 'List the keys with their limits and usage')
            [CompletionResult]::new('set', 'set', [CompletionResultType]::ParameterValue, 'Change the limits of a key, from the next request on')
            [CompletionResult]::new('rotate', 'rotate', [CompletionResultType]::ParameterValue, 'Replace a key with a new one that has the same name, limits and counters')
            [CompletionResult]::new('reset', 'reset', [CompletionResultType]::ParameterValue, 'Reset the spending of this period, so that the whole budget is available again')
            [CompletionResult]::new('revoke', 'revoke', [CompletionResultType]::ParameterValue, 'Revoke a key permanently; its next request is rejected')
            [CompletionResult]::new('secret', 'secret', [CompletionResultType]::ParameterValue, 'Create the team secret, which is used to hash keys, and print its path')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'qwenauth;keys;create' {
            [CompletionResult]::new('--owner', '--owner', [CompletionResultType]::ParameterName, 'Owner of the key: a name or an address')
            [CompletionResult]::new('--rpm', '--rpm', [CompletionResultType]::ParameterName, 'Requests per minute; further ones wait')
            [CompletionResult]::new('--rpd', '--rpd', [CompletionResultType]::ParameterName, 'Requests per day (UTC); further ones are rejected')
            [CompletionResult]::new('--tpm', '--tpm', [CompletionResultType]::ParameterName, 'Tokens per minute, of prompts and completions; further requests wait')
            [CompletionResult]::new('--tpd', '--tpd', [CompletionResultType]::ParameterName, 'Tokens per day (UTC); further requests are rejected')
            [CompletionResult]::new('--parallel', '--parallel', [CompletionResultType]::ParameterName, 'Requests in flight at once; further ones wait')
            [CompletionResult]::new('--budget', '--budget', [CompletionResultType]::ParameterName, 'Money per day, week or month: `20 USD/month`; further requests are rejected')
            [CompletionResult]::new('--models', '--models', [CompletionResultType]::ParameterName, 'Models the key may use: names, or patterns with `*` and `?`; can be repeated')
            [CompletionResult]::new('--profiles', '--profiles', [CompletionResultType]::ParameterName, 'Profiles the key may use; can be repeated')
            [CompletionResult]::new('--expires', '--expires', [CompletionResultType]::ParameterName, 'When the key expires: after a time (`30d`, `12h`) or at the end of a day (`2027-01-31`, UTC)')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;keys;list' {
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;keys;set' {
            [CompletionResult]::new('--owner', '--owner', [CompletionResultType]::ParameterName, 'Owner of the key: a name or an address')
            [CompletionResult]::new('--rpm', '--rpm', [CompletionResultType]::ParameterName, 'Requests per minute; further ones wait')
            [CompletionResult]::new('--rpd', '--rpd', [CompletionResultType]::ParameterName, 'Requests per day (UTC); further ones are rejected')
            [CompletionResult]::new('--tpm', '--tpm', [CompletionResultType]::ParameterName, 'Tokens per minute, of prompts and completions; further requests wait')
            [CompletionResult]::new('--tpd', '--tpd', [CompletionResultType]::ParameterName, 'Tokens per day (UTC); further requests are rejected')
            [CompletionResult]::new('--parallel', '--parallel', [CompletionResultType]::ParameterName, 'Requests in flight at once; further ones wait')
            [CompletionResult]::new('--budget', '--budget', [CompletionResultType]::ParameterName, 'Money per day, week or month: `20 USD/month`; further requests are rejected')
            [CompletionResult]::new('--models', '--models', [CompletionResultType]::ParameterName, 'Models the key may use: names, or patterns with `*` and `?`; can be repeated')
            [CompletionResult]::new('--profiles', '--profiles', [CompletionResultType]::ParameterName, 'Profiles the key may use; can be repeated')
            [CompletionResult]::new('--expires', '--expires', [CompletionResultType]::ParameterName, 'When the key expires: after a time (`30d`, `12h`) or at the end of a day (`2027-01-31`, UTC)')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;keys;rotate' {
            [CompletionResult]::new('--overlap', '--overlap', [CompletionResultType]::ParameterName, 'How long the old key stays valid')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;keys;reset' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;keys;revoke' {
            [CompletionResult]::new('--yes', '--yes', [CompletionResultType]::ParameterName, 'Do not ask for confirmation')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;keys;secret' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;keys;help' {
            [CompletionResult]::new('create', 'create', [CompletionResultType]::ParameterValue, 'Create a key and print it once, alone on stdout')
            [CompletionResult]::new('list', 'list', [CompletionResultType]::ParameterValue, 'List the keys with their limits and usage')
            [CompletionResult]::new('set', 'set', [CompletionResultType]::ParameterValue, 'Change the limits of a key, from the next request on')
            [CompletionResult]::new('rotate', 'rotate', [CompletionResultType]::ParameterValue, 'Replace a key with a new one that has the same name, limits and counters')
            [CompletionResult]::new('reset', 'reset', [CompletionResultType]::ParameterValue, 'Reset the spending of this period, so that the whole budget is available again')
            [CompletionResult]::new('revoke', 'revoke', [CompletionResultType]::ParameterValue, 'Revoke a key permanently; its next request is rejected')
            [CompletionResult]::new('secret', 'secret', [CompletionResultType]::ParameterValue, 'Create the team secret, which is used to hash keys, and print its path')
            [CompletionResult]::new('help', 'help', [CompletionResultType]::ParameterValue, 'Print this message or the help of the given subcommand(s)')
            break
        }
        'qwenauth;keys;help;create' {
            break
        }
        'qwenauth;keys;help;list' {
            break
        }
        'qwenauth;keys;help;set' {
            break
        }
        'qwenauth;keys;help;rotate' {
            break
        }
        'qwenauth;keys;help;reset' {
            break
        }
        'qwenauth;keys;help;revoke' {
            break
        }
        'qwenauth;keys;help;secret' {
            break
        }
        'qwenauth;keys;help;help' {
            break
        }
        'qwenauth;providers' {
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;profiles' {
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;use' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;setup' {
            [CompletionResult]::new('--model', '--model', [CompletionResultType]::ParameterName, 'The model the tool starts with')
            [CompletionResult]::new('--gateway', '--gateway', [CompletionResultType]::ParameterName, 'Use a gateway at this address; its key is kept in a file')
            [CompletionResult]::new('--gateway-url', '--gateway-url', [CompletionResultType]::ParameterName, 'Use the gateway of a team at this URL, with the key of its `--key-env` or `--key-file`; needs `--model`')
            [CompletionResult]::new('--key-env', '--key-env', [CompletionResultType]::ParameterName, 'Variable from which the tool reads the team''s key (default: `QWENAUTH_TEAM_KEY`)')
            [CompletionResult]::new('--key-file', '--key-file', [CompletionResultType]::ParameterName, 'File with the team''s key')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--print', '--print', [CompletionResultType]::ParameterName, 'Print what would be written and change nothing')
            [CompletionResult]::new('--remove', '--remove', [CompletionResultType]::ParameterName, 'Undo what was written')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'With `--remove`: also discard later manual edits')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print the list as JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;doctor' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Use this profile instead of the active one')
            [CompletionResult]::new('--fix', '--fix', [CompletionResultType]::ParameterName, 'Fix local problems: file modes, stale locks, leftover files, abandoned logins')
            [CompletionResult]::new('--team', '--team', [CompletionResultType]::ParameterName, 'Check the team''s gateway that the active profile is logged in to: reachable, ready, its certificate')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Print JSON')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;sandbox' {
            [CompletionResult]::new('--expires-in', '--expires-in', [CompletionResultType]::ParameterName, 'Lifetime of the practice provider''s access tokens')
            [CompletionResult]::new('--tour', '--tour', [CompletionResultType]::ParameterName, 'Show each command with its real output, then exit')
            [CompletionResult]::new('--no-approve', '--no-approve', [CompletionResultType]::ParameterName, 'Never approve automatically; wait for the approval page')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;completions' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'qwenauth;help' {
            [CompletionResult]::new('login', 'login', [CompletionResultType]::ParameterValue, 'Log in and make the profile active')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show login status')
            [CompletionResult]::new('refresh', 'refresh', [CompletionResultType]::ParameterValue, 'Renew the access token now')
            [CompletionResult]::new('logout', 'logout', [CompletionResultType]::ParameterValue, 'Remove a stored credential and revoke it if the provider supports that')
            [CompletionResult]::new('token', 'token', [CompletionResultType]::ParameterValue, 'Print a valid access token, renewing it if necessary')
            [CompletionResult]::new('env', 'env', [CompletionResultType]::ParameterValue, 'Print shell statements that export the credential')
            [CompletionResult]::new('exec', 'exec', [CompletionResultType]::ParameterValue, 'Run a program with the credential in its environment')
            [CompletionResult]::new('gateway', 'gateway', [CompletionResultType]::ParameterValue, 'Run a local OpenAI-compatible proxy that holds the credential')
            [CompletionResult]::new('usage', 'usage', [CompletionResultType]::ParameterValue, 'Show gateway usage and remaining limits')
            [CompletionResult]::new('keys', 'keys', [CompletionResultType]::ParameterValue, 'Create and manage keys for the people and jobs that share a gateway')
            [CompletionResult]::new('providers', 'providers', [CompletionResultType]::ParameterValue, 'Compare the known providers: price, limits, CI, login methods available here')
            [CompletionResult]::new('profiles', 'profiles', [CompletionResultType]::ParameterValue, 'List the stored profiles')
            [CompletionResult]::new('use', 'use', [CompletionResultType]::ParameterValue, 'Make a stored profile the active one')
            [CompletionResult]::new('setup', 'setup', [CompletionResultType]::ParameterValue, 'Configure a tool to use the active profile')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Diagnose login problems')
            [CompletionResult]::new('sandbox', 'sandbox', [CompletionResultType]::ParameterValue, 'Try qwenauth with a local practice provider: no account, no network')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print a shell completion script')
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
        'qwenauth;help;keys' {
            [CompletionResult]::new('create', 'create', [CompletionResultType]::ParameterValue, 'Create a key and print it once, alone on stdout')
            [CompletionResult]::new('list', 'list', [CompletionResultType]::ParameterValue, 'List the keys with their limits and usage')
            [CompletionResult]::new('set', 'set', [CompletionResultType]::ParameterValue, 'Change the limits of a key, from the next request on')
            [CompletionResult]::new('rotate', 'rotate', [CompletionResultType]::ParameterValue, 'Replace a key with a new one that has the same name, limits and counters')
            [CompletionResult]::new('reset', 'reset', [CompletionResultType]::ParameterValue, 'Reset the spending of this period, so that the whole budget is available again')
            [CompletionResult]::new('revoke', 'revoke', [CompletionResultType]::ParameterValue, 'Revoke a key permanently; its next request is rejected')
            [CompletionResult]::new('secret', 'secret', [CompletionResultType]::ParameterValue, 'Create the team secret, which is used to hash keys, and print its path')
            break
        }
        'qwenauth;help;keys;create' {
            break
        }
        'qwenauth;help;keys;list' {
            break
        }
        'qwenauth;help;keys;set' {
            break
        }
        'qwenauth;help;keys;rotate' {
            break
        }
        'qwenauth;help;keys;reset' {
            break
        }
        'qwenauth;help;keys;revoke' {
            break
        }
        'qwenauth;help;keys;secret' {
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
