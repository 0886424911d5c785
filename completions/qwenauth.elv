
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
            cand status 'Show where the login stands'
            cand refresh 'Renew the access token now'
            cand logout 'Remove a stored credential, revoking it where the provider can'
            cand token 'Print an access token that is good for a while'
            cand env 'Print shell statements that export the credential'
            cand exec 'Run a program with the credential in its environment'
            cand gateway 'Serve an OpenAI-compatible API on this machine that keeps the credential to itself'
            cand usage 'Show what passed through the gateway and what limits leave'
            cand providers 'Compare the known providers: price, limits, CI, what works here'
            cand profiles 'List the stored profiles'
            cand use 'Make a stored profile the active one'
            cand setup 'Set up a tool to use the active profile'
            cand doctor 'Look for what keeps a login from working'
            cand sandbox 'Try everything against a practice provider on this machine: no account, no network'
            cand completions 'Print a completion script'
            cand help 'Print this message or the help of the given subcommand(s)'
        }
        &'qwenauth;login'= {
            cand --api-key-env 'Take the API key from this environment variable'
            cand --base-url 'Where the API lives, for `custom` or a workspace''s own domain'
            cand --region 'The region the key belongs to (default: found out)'
            cand --key-label 'OpenRouter: the name of the new key'
            cand --limit 'OpenRouter: the most that the new key may spend, in US dollars'
            cand --qr 'Draw the verification URL as a QR code on stderr'
            cand --timeout 'Give up after this long, for example `90s` or `5m`'
            cand --model 'The model that `env` and `exec` name for this profile'
            cand --profile 'Use this profile instead of the active one'
            cand --force 'Log in again although a valid login exists'
            cand --api-key-stdin 'Read the API key from stdin'
            cand --code-stdin 'OpenRouter: read the code that the browser shows from stdin'
            cand --no-browser 'Do not open a browser'
            cand --clipboard 'Copy the code, or the address where there is none, to the clipboard of the terminal (OSC 52)'
            cand --no-verify 'Do not prove the login with a request to the API'
            cand --no-wait 'Show the code, keep the login pending and leave: for scripts and agents'
            cand --resume 'Wait for the pending login; start none'
            cand --json 'Print events for a script, one JSON object a line'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'qwenauth;status'= {
            cand --profile 'Use this profile instead of the active one'
            cand --json 'Print JSON'
            cand --all 'Show every stored profile'
            cand --check 'Ask the API whether it accepts the credential'
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
            cand --min-ttl 'How long the token must be good for (default: 30s)'
            cand --format 'format'
            cand --profile 'Use this profile instead of the active one'
            cand --short-lived 'Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'qwenauth;env'= {
            cand --format 'Shell or file that reads the output (default: `sh`, on Windows the shell that runs qwenauth)'
            cand --model 'The model to name in `OPENAI_MODEL`'
            cand --min-ttl 'How long the token must be good for (default: 10m if it can be had)'
            cand --profile 'Use this profile instead of the active one'
            cand --unset 'Print statements that remove the variables'
            cand --native 'Add the provider''s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL'
            cand --short-lived 'Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)'
            cand -h 'Print help (see more with ''--help'')'
            cand --help 'Print help (see more with ''--help'')'
        }
        &'qwenauth;exec'= {
            cand --model 'The model to name in `OPENAI_MODEL`'
            cand --min-ttl 'How long the token must be good for (default: 10m if it can be had)'
            cand --rpm 'Requests a minute, instead of what is known of the provider'
            cand --rpd 'Requests a day, after which the gateway refuses'
            cand --max-wait 'Longest wait that the provider may ask for before it is asked again'
            cand --timeout 'Longest time until an answer begins, and between two pieces of it'
            cand --max-body 'Longest request'
            cand --replay-limit 'Longest request that is kept to be sent again'
            cand --log 'Write a JSON line per request to this file, or with `-` to stdout; never a body or a key'
            cand --fallback 'Other profiles that serve when the limit, plan or service of this one is over, by the map `[fallback.models]` in config.toml'
            cand --warn-at 'Say so, once a day, when this much of the day''s limit is used'
            cand --as 'The known program that CMD is, where its name does not tell'
            cand --profile 'Use this profile instead of the active one'
            cand --gateway 'Keep the credential in a gateway that lives as long as the program'
            cand --preserve-env 'Keep the key and base URL if one of any family is already set'
            cand --native 'Add the provider''s own variables, such as `DASHSCOPE_API_KEY`, each with its base URL'
            cand --no-pacing 'Count requests, but let none wait'
            cand --short-lived 'Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)'
            cand --allow-env-file 'Start a known program although a file that it reads, or an option of its own, replaces host or key'
            cand -v 'Say which variables were set'
            cand --verbose 'Say which variables were set'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;gateway'= {
            cand --listen 'Where to listen; port 0 takes a free one'
            cand --api-key-file 'Keep the key in this file over restarts; it is not printed'
            cand --allow-host 'Answer to this host name as well; can be repeated'
            cand --drain 'How long requests may take to finish after Ctrl-C'
            cand --rpm 'Requests a minute, instead of what is known of the provider'
            cand --rpd 'Requests a day, after which the gateway refuses'
            cand --max-wait 'Longest wait that the provider may ask for before it is asked again'
            cand --timeout 'Longest time until an answer begins, and between two pieces of it'
            cand --max-body 'Longest request'
            cand --replay-limit 'Longest request that is kept to be sent again'
            cand --log 'Write a JSON line per request to this file, or with `-` to stdout; never a body or a key'
            cand --fallback 'Other profiles that serve when the limit, plan or service of this one is over, by the map `[fallback.models]` in config.toml'
            cand --warn-at 'Say so, once a day, when this much of the day''s limit is used'
            cand --profile 'Use this profile instead of the active one'
            cand --plain-http 'Listen beyond this machine although nothing encrypts what passes'
            cand --show-key 'Print the key of `--api-key-file` as well'
            cand --all-profiles 'Serve every stored profile, at `/p/NAME/v1`'
            cand --metrics 'Serve counters for Prometheus at `/metrics`, behind the key'
            cand --install 'Run it as a service of yours from now on, with these options (systemd, launchd)'
            cand --uninstall 'Stop the service and remove it'
            cand --json 'Print JSON'
            cand --no-pacing 'Count requests, but let none wait'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;usage'= {
            cand --days 'How many days, today included'
            cand --profile 'Use this profile instead of the active one'
            cand --json 'Print JSON'
            cand --check 'Ask the provider what is left, where it can be asked'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;providers'= {
            cand --profile 'Use this profile instead of the active one'
            cand --json 'Print JSON'
            cand --markdown 'Print the Markdown table of the README: how each is logged in to, and how far that was tried'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;profiles'= {
            cand --profile 'Use this profile instead of the active one'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;use'= {
            cand --profile 'Use this profile instead of the active one'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;setup'= {
            cand --model 'The model the tool starts with'
            cand --gateway 'Use a gateway on this address, whose key stays in a file'
            cand --profile 'Use this profile instead of the active one'
            cand --print 'Print what would be written and change nothing'
            cand --remove 'Undo what was written'
            cand --force 'With `--remove`: also what was edited by hand since'
            cand --json 'Print the list as JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;doctor'= {
            cand --profile 'Use this profile instead of the active one'
            cand --fix 'Repair what is local: modes, stale locks, leftover files, logins nobody completed'
            cand --json 'Print JSON'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;sandbox'= {
            cand --expires-in 'How long access tokens of the practice provider live'
            cand --profile 'Use this profile instead of the active one'
            cand --tour 'Show each command with its real output, then leave'
            cand --no-approve 'Approve nothing by itself, even without a terminal: every login waits for the page'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;completions'= {
            cand --profile 'Use this profile instead of the active one'
            cand -h 'Print help'
            cand --help 'Print help'
        }
        &'qwenauth;help'= {
            cand login 'Log in and make the profile active'
            cand status 'Show where the login stands'
            cand refresh 'Renew the access token now'
            cand logout 'Remove a stored credential, revoking it where the provider can'
            cand token 'Print an access token that is good for a while'
            cand env 'Print shell statements that export the credential'
            cand exec 'Run a program with the credential in its environment'
            cand gateway 'Serve an OpenAI-compatible API on this machine that keeps the credential to itself'
            cand usage 'Show what passed through the gateway and what limits leave'
            cand providers 'Compare the known providers: price, limits, CI, what works here'
            cand profiles 'List the stored profiles'
            cand use 'Make a stored profile the active one'
            cand setup 'Set up a tool to use the active profile'
            cand doctor 'Look for what keeps a login from working'
            cand sandbox 'Try everything against a practice provider on this machine: no account, no network'
            cand completions 'Print a completion script'
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
