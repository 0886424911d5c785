# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_qwenauth_global_optspecs
    string join \n profile= h/help V/version
end

function __fish_qwenauth_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_qwenauth_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_qwenauth_using_subcommand
    set -l cmd (__fish_qwenauth_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c qwenauth -n "__fish_qwenauth_needs_command" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_needs_command" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -s V -l version -d 'Print version'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "login" -d 'Log in and make the profile active'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "status" -d 'Show login status'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "refresh" -d 'Renew the access token now'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "logout" -d 'Remove a stored credential, revoking it where the provider can'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "token" -d 'Print a valid access token, renewing it if necessary'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "env" -d 'Print shell statements that export the credential'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "exec" -d 'Run a program with the credential in its environment'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "gateway" -d 'Run a local OpenAI-compatible proxy that holds the credential'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "usage" -d 'Show gateway usage and remaining limits'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "keys" -d 'Make and manage keys for the people and jobs that share a gateway'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "providers" -d 'Compare the known providers: price, limits, CI, what works here'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "profiles" -d 'List the stored profiles'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "use" -d 'Make a stored profile the active one'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "setup" -d 'Configure a tool to use the active profile'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "doctor" -d 'Diagnose login problems'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "sandbox" -d 'Try qwenauth with a local practice provider: no account, no network'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "completions" -d 'Print a completion script'
complete -c qwenauth -n "__fish_qwenauth_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l api-key-env -d 'Read the API key from this environment variable' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l api-key-command -d 'Command that prints the API key, run without a shell whenever the key is needed; only the command is stored' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l store -d 'Where to keep the secret (default: `store` of config.toml, else where it is, else `file`); without a key, move it there' -r -f -a "file\t'In a private file'
keyring\t'In the keyring of the system'"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l base-url -d 'API base URL, for `custom` or a workspace-specific domain' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l region -d 'Region of the key (default: detected)' -r -f -a "(qwenauth __complete regions (commandline -opc)[2..] 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l policy -d 'Policy at the provider that trusts this workload' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l audience -d 'Audience to ask an ID token of GitHub Actions for' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l id-token-file -d 'File with the ID token, for example of a Kubernetes pod (default: ask GitHub Actions)' -r -F
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l id-token-env -d 'Environment variable with the ID token, for example of GitLab CI' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l key-label -d 'OpenRouter: the name of the new key' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l limit -d 'Spending limit of the new key, in US dollars' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l qr -d 'Draw the verification URL as a QR code on stderr' -r -f -a "auto\t'If stderr is a terminal with enough room'
always\t''
never\t''"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l timeout -d 'Give up after this long, for example `90s` or `5m`' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l model -d 'Default model of this profile, exported by `env` and `exec`' -r -f -a "(qwenauth __complete models (commandline -opc)[2..] 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l force -d 'Log in even if already logged in'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l api-key-stdin -d 'Read the API key from stdin'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l workload-identity -d 'Log in as this CI job or pod, with its ID token instead of a secret'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l code-stdin -d 'Read the code shown in the browser from stdin'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l no-browser -d 'Do not open a browser'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l clipboard -d 'Copy the code, or the address where there is none, to the clipboard of the terminal (OSC 52)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l no-verify -d 'Skip the test request'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l no-wait -d 'Print the code and exit; finish later with `--resume`'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l resume -d 'Finish a pending login instead of starting a new one'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -l json -d 'Print events as JSON, one object per line'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand status" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand status" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand status" -l all -d 'Show every stored profile'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand status" -l check -d 'Ask the API whether it accepts the credential'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand status" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand refresh" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand refresh" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand logout" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand logout" -l all -d 'Remove every stored profile'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand logout" -l local -d 'Do not ask the provider to revoke the credential'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand logout" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand logout" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand token" -l min-ttl -d 'Minimum remaining lifetime of the token (default: 30s)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand token" -l format -r -f -a "raw\t'The token alone'
json\t'An object with token, expiry, base URL and model'
header\t'`Authorization: Bearer …`'"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand token" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand token" -l short-lived -d 'Use a temporary key (at most 30 min) created from the stored one (`dashscope` only)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand token" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand env" -l format -d 'Shell or file that reads the output (default: `sh`, on Windows the shell that runs qwenauth)' -r -f -a "sh\t'bash, dash, zsh; quoted, any POSIX shell'
fish\t''
powershell\t''
nushell\t'A record for `from json | load-env`'
elvish\t''
cmd\t'For a `for /f` loop'
dotenv\t'An `.env` file'
json\t'Object of names and values; null means unset'
github\t'Lines for the file `GITHUB_ENV` of a GitHub Actions job, the key masked'"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand env" -l model -d 'The model to name in `OPENAI_MODEL`' -r -f -a "(qwenauth __complete models (commandline -opc)[2..] 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand env" -l min-ttl -d 'Minimum remaining lifetime of the token (default: 10m, best effort)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand env" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand env" -l unset -d 'Print statements that remove the variables'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand env" -l native -d 'Add the provider\'s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand env" -l short-lived -d 'Use a temporary key (at most 30 min) created from the stored one (`dashscope` only)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand env" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l model -d 'The model to name in `OPENAI_MODEL`' -r -f -a "(qwenauth __complete models (commandline -opc)[2..] 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l min-ttl -d 'Minimum remaining lifetime of the token (default: 10m, best effort)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l as -d 'The known program that CMD is, where its name does not tell' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l rpm -d 'Requests per minute (default: the provider\'s known limit)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l rpd -d 'Requests per day; further requests are rejected' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l max-wait -d 'Longest `Retry-After` to honor; longer ones go to the client' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l timeout -d 'Timeout for the first byte of a response and between chunks' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l max-body -d 'Longest request' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l replay-limit -d 'Largest body kept in memory for retries' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l log -d 'Write a JSON line per request to this file, or with `-` to stdout; never a body or a key' -r -F
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l fallback -d 'Other profiles that serve when the limit, plan or service of this one is over, by the map `[fallback.models]` in config.toml' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l warn-at -d 'Warn once a day when this share of the daily limit is used' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l gateway -d 'Run the program behind its own gateway, so that it never sees the credential'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l preserve-env -d 'Keep the key and base URL if one of any family is already set'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l native -d 'Add the provider\'s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l short-lived -d 'Use a temporary key (at most 30 min) created from the stored one (`dashscope` only)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l allow-env-file -d 'Start a known program although a file that it reads, or an option of its own, replaces host or key'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -s v -l verbose -d 'Show which variables were set'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -l no-pacing -d 'Count requests without delaying any'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand exec" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l listen -d 'Address to listen on (port 0 picks a free port), or `unix:PATH` for a socket of this user (not on Windows)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l tls-cert -d 'Serve HTTPS with the certificate in this PEM file; read again when it changes' -r -F
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l tls-key -d 'The private key of the certificate' -r -F
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l tls-client-ca -d 'Let in only clients with a certificate of a CA in this file' -r -F
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l public-url -d 'The URL by which clients reach the gateway (default: by the certificate\'s first name)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l serve -d 'With `--shared`: renew the login of this machine for the other gateways (`home`), or use the tokens of one that does (`edge`) (default: `home` where the profile is logged in, else `edge`)' -r -f -a "home\t'It renews the login of this machine and publishes its access tokens'
edge\t'It uses the access tokens that a home publishes'"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l api-key-file -d 'Persist the key in this file; it is not printed' -r -F
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l allow-host -d 'Also accept this `Host` header; can be repeated' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l metrics-listen -d 'Serve the metrics at this address as well, with `/healthz` and `/readyz`, without the key' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l drain -d 'Time for open requests to finish after Ctrl-C' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l rpm -d 'Requests per minute (default: the provider\'s known limit)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l rpd -d 'Requests per day; further requests are rejected' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l max-wait -d 'Longest `Retry-After` to honor; longer ones go to the client' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l timeout -d 'Timeout for the first byte of a response and between chunks' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l max-body -d 'Longest request' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l replay-limit -d 'Largest body kept in memory for retries' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l log -d 'Write a JSON line per request to this file, or with `-` to stdout; never a body or a key' -r -F
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l fallback -d 'Other profiles that serve when the limit, plan or service of this one is over, by the map `[fallback.models]` in config.toml' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l warn-at -d 'Warn once a day when this share of the daily limit is used' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l plain-http -d 'Listen beyond this machine although nothing encrypts what passes'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l shared -d 'Count limits together with other gateways, on the Redis or Valkey server of `[team] shared` in config.toml or of `QWENAUTH_SHARED_URL`'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l show-key -d 'Print the key of `--api-key-file` as well'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l keys -d 'Accept the keys of `qwenauth keys`, each within its limits, which are counted on this machine, or with `--shared` together with the other gateways'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l metrics-keys -d 'With `--keys`: metrics have a line for the budget of each key'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l all-profiles -d 'Serve every stored profile, at `/p/NAME/v1`'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l metrics -d 'Serve Prometheus metrics at `/metrics` (requires the key)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l install -d 'Run it as a service of yours from now on, with these options (systemd, launchd)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l uninstall -d 'Stop the service and remove it'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -l no-pacing -d 'Count requests without delaying any'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand gateway" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand usage" -l days -d 'Number of days, including today' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand usage" -l by -d 'With `--team`: what is summed up apart (default: key)' -r -f -a "key\t''
owner\t''
profile\t''
model\t''
day\t''"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand usage" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand usage" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand usage" -l check -d 'Query the provider for the remaining quota, if supported'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand usage" -l team -d 'Sum up what the keys of people and jobs used'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand usage" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -f -a "create" -d 'Make a key and print it once, alone on stdout'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -f -a "list" -d 'List the keys, with what they may use and have used'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -f -a "set" -d 'Change the limits of a key; it counts from the next request on'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -f -a "rotate" -d 'Replace a key by a new one with the same name, limits and counts'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -f -a "reset" -d 'Empty the spending of this period, so that the whole budget is there again'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -f -a "revoke" -d 'Revoke a key for good; its next request is rejected'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -f -a "secret" -d 'Make the team secret, under which keys are hashed, and print its path'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and not __fish_seen_subcommand_from create list set rotate reset revoke secret help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l owner -d 'Who answers for the key: a name or an address' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l rpm -d 'Requests per minute; further ones wait' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l rpd -d 'Requests per day (UTC); further ones are rejected' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l tpm -d 'Tokens per minute, of prompts and completions; further requests wait' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l tpd -d 'Tokens per day (UTC); further requests are rejected' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l parallel -d 'Requests in flight at once; further ones wait' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l budget -d 'Money per day, week or month: `20 USD/month`; further requests are rejected' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l models -d 'Models the key may use: names, or patterns with `*` and `?`; can be repeated' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l profiles -d 'Profiles the key may use; can be repeated' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l expires -d 'When the key stops working: after a while (`30d`, `12h`), or with the end of a day (`2027-01-31`, UTC)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from list" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l owner -d 'Who answers for the key: a name or an address' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l rpm -d 'Requests per minute; further ones wait' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l rpd -d 'Requests per day (UTC); further ones are rejected' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l tpm -d 'Tokens per minute, of prompts and completions; further requests wait' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l tpd -d 'Tokens per day (UTC); further requests are rejected' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l parallel -d 'Requests in flight at once; further ones wait' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l budget -d 'Money per day, week or month: `20 USD/month`; further requests are rejected' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l models -d 'Models the key may use: names, or patterns with `*` and `?`; can be repeated' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l profiles -d 'Profiles the key may use; can be repeated' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l expires -d 'When the key stops working: after a while (`30d`, `12h`), or with the end of a day (`2027-01-31`, UTC)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from rotate" -l overlap -d 'How long the old key works beside the new one' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from rotate" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from rotate" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from rotate" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from reset" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from reset" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from revoke" -l yes -d 'Do not ask'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from revoke" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from secret" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from secret" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from help" -f -a "create" -d 'Make a key and print it once, alone on stdout'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from help" -f -a "list" -d 'List the keys, with what they may use and have used'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from help" -f -a "set" -d 'Change the limits of a key; it counts from the next request on'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from help" -f -a "rotate" -d 'Replace a key by a new one with the same name, limits and counts'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from help" -f -a "reset" -d 'Empty the spending of this period, so that the whole budget is there again'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from help" -f -a "revoke" -d 'Revoke a key for good; its next request is rejected'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from help" -f -a "secret" -d 'Make the team secret, under which keys are hashed, and print its path'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand keys; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand providers" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand providers" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand profiles" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand profiles" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand profiles" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand use" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l model -d 'The model the tool starts with' -r -f -a "(qwenauth __complete models (commandline -opc)[2..] 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l gateway -d 'Use a gateway at this address; its key is kept in a file' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l gateway-url -d 'Use the gateway of a team at this URL, with the key of its `--key-env` or `--key-file`; needs `--model`' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l key-env -d 'The variable that the tool takes the team\'s key from (default: `QWENAUTH_TEAM_KEY`)' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l key-file -d 'The file that holds the team\'s key' -r -F
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l print -d 'Print what would be written and change nothing'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l remove -d 'Undo what was written'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l force -d 'With `--remove`: also discard later manual edits'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -l json -d 'Print the list as JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand doctor" -l profile -d 'Use this profile instead of the active one' -r -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand doctor" -l fix -d 'Fix local problems: file modes, stale locks, leftover files, abandoned logins'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand doctor" -l team -d 'Check the team\'s gateway that the active profile is logged in to: reachable, ready, its certificate'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand doctor" -l json -d 'Print JSON'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand sandbox" -l expires-in -d 'Lifetime of the practice provider\'s access tokens' -r -f
complete -c qwenauth -n "__fish_qwenauth_using_subcommand sandbox" -l tour -d 'Show each command with its real output, then leave'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand sandbox" -l no-approve -d 'Never approve automatically; wait for the approval page'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand sandbox" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand completions" -s h -l help -d 'Print help'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "login" -d 'Log in and make the profile active'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "status" -d 'Show login status'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "refresh" -d 'Renew the access token now'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "logout" -d 'Remove a stored credential, revoking it where the provider can'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "token" -d 'Print a valid access token, renewing it if necessary'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "env" -d 'Print shell statements that export the credential'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "exec" -d 'Run a program with the credential in its environment'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "gateway" -d 'Run a local OpenAI-compatible proxy that holds the credential'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "usage" -d 'Show gateway usage and remaining limits'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "keys" -d 'Make and manage keys for the people and jobs that share a gateway'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "providers" -d 'Compare the known providers: price, limits, CI, what works here'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "profiles" -d 'List the stored profiles'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "use" -d 'Make a stored profile the active one'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "setup" -d 'Configure a tool to use the active profile'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "doctor" -d 'Diagnose login problems'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "sandbox" -d 'Try qwenauth with a local practice provider: no account, no network'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "completions" -d 'Print a completion script'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and not __fish_seen_subcommand_from login status refresh logout token env exec gateway usage keys providers profiles use setup doctor sandbox completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and __fish_seen_subcommand_from keys" -f -a "create" -d 'Make a key and print it once, alone on stdout'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and __fish_seen_subcommand_from keys" -f -a "list" -d 'List the keys, with what they may use and have used'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and __fish_seen_subcommand_from keys" -f -a "set" -d 'Change the limits of a key; it counts from the next request on'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and __fish_seen_subcommand_from keys" -f -a "rotate" -d 'Replace a key by a new one with the same name, limits and counts'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and __fish_seen_subcommand_from keys" -f -a "reset" -d 'Empty the spending of this period, so that the whole budget is there again'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and __fish_seen_subcommand_from keys" -f -a "revoke" -d 'Revoke a key for good; its next request is rejected'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand help; and __fish_seen_subcommand_from keys" -f -a "secret" -d 'Make the team secret, under which keys are hashed, and print its path'
complete -c qwenauth -n "__fish_qwenauth_using_subcommand login" -f -a "(qwenauth __complete providers 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand providers" -f -a "(qwenauth __complete providers 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand use" -f -a "(qwenauth __complete profiles 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand setup" -f -a "(qwenauth __complete tools 2>/dev/null)"
complete -c qwenauth -n "__fish_qwenauth_using_subcommand completions" -f -a "bash zsh fish powershell elvish nushell"
function __fish_qwenauth_program
    set -l words (commandline -opc) (commandline -ct)
    set -l at (contains -i -- -- $words)
    or return
    set -l program $words[(math $at + 1)..-1]
    complete -C (string join -- ' ' (string escape -- $program[1..-2]) $program[-1])
end
complete -c qwenauth -n "contains -- -- (commandline -opc)" -f -a "(__fish_qwenauth_program)"
