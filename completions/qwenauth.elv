
use builtin;
use str;

set edit:completion:arg-completer[qwenauth] = {|@words|
    fn spaces {|n|
        builtin:repeat $n ' ' | str:join ''
    }
    fn cand {|text desc|
        edit:complex-candidate $text &display=$text' '(spaces (- 14 (wcswidth $text)))$desc
    }
    var command = 'qwenauth'
    for word $words[1..-1] {
        if (str:has-prefix $word '-') {
            break
        }
        set command = $command';'$word
    }
    var completions = [
        &'qwenauth'= {
            cand --profile 'Use this profile instead of the active one'
            cand -h 'Print help'
            cand --help 'Print help'
            cand -V 'Print version'
            cand --version 'Print version'
            cand login 'Log in and make the profile active'
            cand status 'Show login status'
            cand refresh 'Renew the access token now'
            cand logout 'Remove a stored credential and revoke it if the provider supports that'
            cand token 'Print a valid access token, renewing it if necessary'
            cand env 'Print shell statements that export the credential'
            cand exec 'Run a program with the credential in its environment'
            cand gateway 'Run a local OpenAI-compatible proxy that holds the credential'
            cand usage 'Show gateway usage and remaining limits'
            cand keys 'Create and manage keys for the people and jobs that share a gateway'
            cand providers 'Compare the known providers: price, limits, CI, login methods available here'
            cand profiles 'List the stored profiles'
            cand use 'Make a stored profile the active one'
            cand setup 'Configure a tool to use the active profile'
            cand doctor 'Diagnose login problems'
            cand sandbox 'Try qwenauth with a local practice provider: no account, no network'
            cand completions 'Print a shell completion script'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'qwenauth;login'= {
            cand --profile 'Name under which the login is stored (default: the provider''s name)'
            cand --api-key-env 'Read the API key from this environment variable'
            cand --api-key-command 'Command that prints the API key, run without a shell whenever the key is needed; only the command is stored'
            cand --store 'Where to keep the secret (default: `store` in config.toml, else the current store, else `file`); without a key, move the stored secret there'
            cand --base-url 'API base URL, for `custom` or a workspace-specific domain'
            cand --region 'Region of the key (default: detected)'
            cand --policy 'ID of the provider''s policy that trusts this workload'
            cand --audience 'Audience of the ID token that is requested from GitHub Actions'
            cand --id-token-file 'File with the ID token, for example of a Kubernetes pod (default: request one from GitHub Actions)'
            cand --id-token-env 'Environment variable with the ID token, for example of GitLab CI'
            cand --key-label 'OpenRouter: name of the new key'
            cand --limit 'OpenRouter: spending limit of the new key, in US dollars'
            cand --qr 'Draw the verification URL as a QR code on stderr'
            cand --timeout 'Give up after this long, for example `90s` or `5m` (default: until the code expires)'
            cand --model 'Default model of this profile, exported by `env` and `exec`'
            cand --force 'Log in even if already logged in'
            cand --api-key-stdin 'Read the API key from stdin; on a terminal, ask for it and do not show it'
            cand --workload-identity 'Log in as this CI job or pod, with its ID token instead of a secret'
            cand --code-stdin 'OpenRouter: read the code shown in the browser from stdin'
            cand --no-browser 'Do not open a browser'
            cand --clipboard 'Copy the code, or the address if there is no code, to the terminal''s clipboard (OSC 52)'
            cand --no-verify 'Skip the test request'
            cand --no-wait 'Print the code and exit; finish later with `--resume`'
            cand --resume 'Finish a pending login instead of starting a new one'
            cand --json 'Print events as JSON, one object per line'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'qwenauth;status'= {
            cand --profile 'Use this profile instead of the active one'
            cand --json 'Print JSON'
            cand --all 'Show every stored profile'
            cand --check 'Check with the API that it accepts the credential'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;refresh'= {
            cand --profile 'Use this profile instead of the active one'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;logout'= {
            cand --profile 'Use this profile instead of the active one'
            cand --all 'Remove every stored profile'
            cand --local 'Do not ask the provider to revoke the credential'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;token'= {
            cand --min-ttl 'Minimum remaining lifetime of the token (default: 30s)'
            cand --format 'Output format'
            cand --profile 'Use this profile instead of the active one'
            cand --short-lived 'Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'qwenauth;env'= {
            cand --format 'Output format (default: `sh`, on Windows that of the shell that runs qwenauth)'
            cand --model 'Model to set in `OPENAI_MODEL`'
            cand --min-ttl 'Minimum remaining lifetime of the token (default: 10m, best effort)'
            cand --profile 'Use this profile instead of the active one'
            cand --unset 'Print statements that remove the variables'
            cand --native 'Add the provider''s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL'
            cand --short-lived 'Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'qwenauth;exec'= {
            cand --model 'Model to set in `OPENAI_MODEL`'
            cand --min-ttl 'Minimum remaining lifetime of the token (default: 10m, best effort)'
            cand --as 'Treat CMD as this known program, if its name does not show it'
            cand --rpm 'Requests per minute (default: the provider''s known limit)'
            cand --rpd 'Requests per day; further requests are rejected'
            cand --max-wait 'Longest `Retry-After` to honor; longer ones are forwarded to the client'
            cand --timeout 'Timeout for the first byte of a response and between chunks'
            cand --max-body 'Maximum size of a request body'
            cand --replay-limit 'Largest body kept in memory for retries'
            cand --log 'Write one JSON line per request to this file (`-`: stdout), never a body or a key'
            cand --fallback 'Profiles to use when the limit or plan of this one is used up or its service is down, for the models in `[fallback.models]` of config.toml'
            cand --warn-at 'Warn once a day, and run the hook `limit_near`, when this share of the daily limit is used (default: never)'
            cand --profile 'Use this profile instead of the active one'
            cand --gateway 'Run the program behind its own gateway, so that it never sees the credential'
            cand --preserve-env 'Keep the key and base URL if either is already set, whatever their names'
            cand --native 'Add the provider''s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL'
            cand --short-lived 'Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)'
            cand --allow-env-file 'Start a known program even if one of its files or options overrides host or key'
            cand -v 'Show which variables were set'
            cand --verbose 'Show which variables were set'
            cand --no-pacing 'Count requests without delaying any'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'qwenauth;gateway'= {
            cand --listen 'Address to listen on (port 0 picks a free port), or `unix:PATH` for a socket of this user (not on Windows)'
            cand --tls-cert 'Serve HTTPS with the certificate in this PEM file (reloaded when it changes)'
            cand --tls-key 'Private key of the certificate'
            cand --tls-client-ca 'Accept only clients with a certificate from a CA in this file'
            cand --public-url 'URL that clients use for the gateway (default: from the certificate''s first name)'
            cand --serve 'With `--shared`: renew the login of this machine for the other gateways (`home`), or use the tokens of a gateway that does (`edge`) (default: `home` if the profile is logged in here, else `edge`)'
            cand --api-key-file 'Persist the key in this file; it is not printed'
            cand --allow-host 'Also accept this `Host` header; can be repeated'
            cand --metrics-listen 'Also serve metrics, `/healthz` and `/readyz` at this address, without a key'
            cand --drain 'Time for open requests to finish after Ctrl-C'
            cand --rpm 'Requests per minute (default: the provider''s known limit)'
            cand --rpd 'Requests per day; further requests are rejected'
            cand --max-wait 'Longest `Retry-After` to honor; longer ones are forwarded to the client'
            cand --timeout 'Timeout for the first byte of a response and between chunks'
            cand --max-body 'Maximum size of a request body'
            cand --replay-limit 'Largest body kept in memory for retries'
            cand --log 'Write one JSON line per request to this file (`-`: stdout), never a body or a key'
            cand --fallback 'Profiles to use when the limit or plan of this one is used up or its service is down, for the models in `[fallback.models]` of config.toml'
            cand --warn-at 'Warn once a day, and run the hook `limit_near`, when this share of the daily limit is used (default: never)'
            cand --profile 'Use this profile instead of the active one'
            cand --plain-http 'Allow unencrypted HTTP on addresses other than loopback'
            cand --shared 'Count limits together with other gateways, on the Redis or Valkey server in `[team] shared` of config.toml or in `QWENAUTH_SHARED_URL`'
            cand --show-key 'Print the key of `--api-key-file` as well'
            cand --keys 'Accept the keys of `qwenauth keys`, each within its limits, which are counted on this machine or, with `--shared`, together with the other gateways'
            cand --metrics-keys 'With `--keys`: add a metric for the budget of each key'
            cand --all-profiles 'Serve every stored profile, at `/p/NAME/v1`'
            cand --metrics 'Serve Prometheus metrics at `/metrics` (requires the key)'
            cand --install 'Install and start it as a user service with these options (systemd, launchd)'
            cand --uninstall 'Stop the service and remove it'
            cand --json 'Print JSON'
            cand --no-pacing 'Count requests without delaying any'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'qwenauth;usage'= {
            cand --days 'Number of days, including today'
            cand --by 'With `--team`: group the usage by this (default: key)'
            cand --profile 'Use this profile instead of the active one'
            cand --json 'Print JSON'
            cand --check 'Query the provider for the remaining quota, if supported'
            cand --team 'Show the usage of the keys of people and jobs'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;keys'= {
            cand -h 'Print help'
            cand --help 'Print help'
            cand create 'Create a key and print it once, alone on stdout'
            cand list 'List the keys with their limits and usage'
            cand set 'Change the limits of a key, from the next request on'
            cand rotate 'Replace a key with a new one that has the same name, limits and counters'
            cand reset 'Reset the spending of this period, so that the whole budget is available again'
            cand revoke 'Revoke a key permanently; its next request is rejected'
            cand secret 'Create the team secret, which is used to hash keys, and print its path'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'qwenauth;keys;create'= {
            cand --owner 'Owner of the key: a name or an address'
            cand --rpm 'Requests per minute; further ones wait'
            cand --rpd 'Requests per day (UTC); further ones are rejected'
            cand --tpm 'Tokens per minute, of prompts and completions; further requests wait'
            cand --tpd 'Tokens per day (UTC); further requests are rejected'
            cand --parallel 'Requests in flight at once; further ones wait'
            cand --budget 'Money per day, week or month: `20 USD/month`; further requests are rejected'
            cand --models 'Models the key may use: names, or patterns with `*` and `?`; can be repeated'
            cand --profiles 'Profiles the key may use; can be repeated'
            cand --expires 'When the key expires: after a time (`30d`, `12h`) or at the end of a day (`2027-01-31`, UTC)'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;keys;list'= {
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;keys;set'= {
            cand --owner 'Owner of the key: a name or an address'
            cand --rpm 'Requests per minute; further ones wait'
            cand --rpd 'Requests per day (UTC); further ones are rejected'
            cand --tpm 'Tokens per minute, of prompts and completions; further requests wait'
            cand --tpd 'Tokens per day (UTC); further requests are rejected'
            cand --parallel 'Requests in flight at once; further ones wait'
            cand --budget 'Money per day, week or month: `20 USD/month`; further requests are rejected'
            cand --models 'Models the key may use: names, or patterns with `*` and `?`; can be repeated'
            cand --profiles 'Profiles the key may use; can be repeated'
            cand --expires 'When the key expires: after a time (`30d`, `12h`) or at the end of a day (`2027-01-31`, UTC)'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;keys;rotate'= {
            cand --overlap 'How long the old key stays valid'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;keys;reset'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;keys;revoke'= {
            cand --yes 'Do not ask for confirmation'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;keys;secret'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;keys;help'= {
            cand create 'Create a key and print it once, alone on stdout'
            cand list 'List the keys with their limits and usage'
            cand set 'Change the limits of a key, from the next request on'
            cand rotate 'Replace a key with a new one that has the same name, limits and counters'
            cand reset 'Reset the spending of this period, so that the whole budget is available again'
            cand revoke 'Revoke a key permanently; its next request is rejected'
            cand secret 'Create the team secret, which is used to hash keys, and print its path'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'qwenauth;keys;help;create'= {
        }
        &'qwenauth;keys;help;list'= {
        }
        &'qwenauth;keys;help;set'= {
        }
        &'qwenauth;keys;help;rotate'= {
        }
        &'qwenauth;keys;help;reset'= {
        }
        &'qwenauth;keys;help;revoke'= {
        }
        &'qwenauth;keys;help;secret'= {
        }
        &'qwenauth;keys;help;help'= {
        }
        &'qwenauth;providers'= {
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;profiles'= {
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;use'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;setup'= {
            cand --model 'The model the tool starts with'
            cand --gateway 'Use a gateway at this address; its key is kept in a file'
            cand --gateway-url 'Use the gateway of a team at this URL, with the key of its `--key-env` or `--key-file`; needs `--model`'
            cand --key-env 'Variable from which the tool reads the team''s key (default: `QWENAUTH_TEAM_KEY`)'
            cand --key-file 'File with the team''s key'
            cand --profile 'Use this profile instead of the active one'
            cand --print 'Print what would be written and change nothing'
            cand --remove 'Undo what was written'
            cand --force 'With `--remove`: also discard later manual edits'
            cand --json 'Print the list as JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;doctor'= {
            cand --profile 'Use this profile instead of the active one'
            cand --fix 'Fix local problems: file modes, stale locks, leftover files, abandoned logins'
            cand --team 'Check the team''s gateway that the active profile is logged in to: reachable, ready, its certificate'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;sandbox'= {
            cand --expires-in 'Lifetime of the practice provider''s access tokens'
            cand --tour 'Show each command with its real output, then exit'
            cand --no-approve 'Never approve automatically; wait for the approval page'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;completions'= {
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;help'= {
            cand login 'Log in and make the profile active'
            cand status 'Show login status'
            cand refresh 'Renew the access token now'
            cand logout 'Remove a stored credential and revoke it if the provider supports that'
            cand token 'Print a valid access token, renewing it if necessary'
            cand env 'Print shell statements that export the credential'
            cand exec 'Run a program with the credential in its environment'
            cand gateway 'Run a local OpenAI-compatible proxy that holds the credential'
            cand usage 'Show gateway usage and remaining limits'
            cand keys 'Create and manage keys for the people and jobs that share a gateway'
            cand providers 'Compare the known providers: price, limits, CI, login methods available here'
            cand profiles 'List the stored profiles'
            cand use 'Make a stored profile the active one'
            cand setup 'Configure a tool to use the active profile'
            cand doctor 'Diagnose login problems'
            cand sandbox 'Try qwenauth with a local practice provider: no account, no network'
            cand completions 'Print a shell completion script'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'qwenauth;help;login'= {
        }
        &'qwenauth;help;status'= {
        }
        &'qwenauth;help;refresh'= {
        }
        &'qwenauth;help;logout'= {
        }
        &'qwenauth;help;token'= {
        }
        &'qwenauth;help;env'= {
        }
        &'qwenauth;help;exec'= {
        }
        &'qwenauth;help;gateway'= {
        }
        &'qwenauth;help;usage'= {
        }
        &'qwenauth;help;keys'= {
            cand create 'Create a key and print it once, alone on stdout'
            cand list 'List the keys with their limits and usage'
            cand set 'Change the limits of a key, from the next request on'
            cand rotate 'Replace a key with a new one that has the same name, limits and counters'
            cand reset 'Reset the spending of this period, so that the whole budget is available again'
            cand revoke 'Revoke a key permanently; its next request is rejected'
            cand secret 'Create the team secret, which is used to hash keys, and print its path'
        }
        &'qwenauth;help;keys;create'= {
        }
        &'qwenauth;help;keys;list'= {
        }
        &'qwenauth;help;keys;set'= {
        }
        &'qwenauth;help;keys;rotate'= {
        }
        &'qwenauth;help;keys;reset'= {
        }
        &'qwenauth;help;keys;revoke'= {
        }
        &'qwenauth;help;keys;secret'= {
        }
        &'qwenauth;help;providers'= {
        }
        &'qwenauth;help;profiles'= {
        }
        &'qwenauth;help;use'= {
        }
        &'qwenauth;help;setup'= {
        }
        &'qwenauth;help;doctor'= {
        }
        &'qwenauth;help;sandbox'= {
        }
        &'qwenauth;help;completions'= {
        }
        &'qwenauth;help;help'= {
        }
    ]
    $completions[$command]
}
