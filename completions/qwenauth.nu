module completions {

  # Log in to Qwen models once and use them from any tool
  export extern qwenauth [
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    --version(-V)             # Print version
  ]

  def "nu-complete qwenauth login store" [] {
    [ "file" "keyring" ]
  }

  def "nu-complete qwenauth login qr" [] {
    [ "auto" "always" "never" ]
  }

  # Log in and make the profile active
  export extern "qwenauth login" [
    --profile: string         # Name under which the login is stored (default: the provider's name)
    --force                   # Log in even if already logged in
    --api-key-stdin           # Read the API key from stdin; on a terminal, ask for it and do not show it
    --api-key-env: string     # Read the API key from this environment variable
    --api-key-command: string # Command that prints the API key, run without a shell whenever the key is needed; only the command is stored
    --store: string@"nu-complete qwenauth login store" # Where to keep the secret (default: `store` in config.toml, else the current store, else `file`); without a key, move the stored secret there
    --base-url: string        # API base URL, for `custom` or a workspace-specific domain
    --region: string          # Region of the key (default: detected)
    --workload-identity       # Log in as this CI job or pod, with its ID token instead of a secret
    --policy: string          # ID of the provider's policy that trusts this workload
    --audience: string        # Audience of the ID token that is requested from GitHub Actions
    --id-token-file: path     # File with the ID token, for example of a Kubernetes pod (default: request one from GitHub Actions)
    --id-token-env: string    # Environment variable with the ID token, for example of GitLab CI
    --code-stdin              # OpenRouter: read the code shown in the browser from stdin
    --key-label: string       # OpenRouter: name of the new key
    --limit: string           # OpenRouter: spending limit of the new key, in US dollars
    --no-browser              # Do not open a browser
    --qr: string@"nu-complete qwenauth login qr" # Draw the verification URL as a QR code on stderr
    --clipboard               # Copy the code, or the address if there is no code, to the terminal's clipboard (OSC 52)
    --no-verify               # Skip the test request
    --no-wait                 # Print the code and exit; finish later with `--resume`
    --resume                  # Finish a pending login instead of starting a new one
    --timeout: string         # Give up after this long, for example `90s` or `5m` (default: until the code expires)
    --model: string           # Default model of this profile, exported by `env` and `exec`
    --json                    # Print events as JSON, one object per line
    --help(-h)                # Print help (see more with '--help')
    provider?: string         # Provider to log in to (default: choose from a list on a terminal, else `qwen`)
  ]

  # Show login status
  export extern "qwenauth status" [
    --json                    # Print JSON
    --all                     # Show every stored profile
    --check                   # Check with the API that it accepts the credential
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Renew the access token now
  export extern "qwenauth refresh" [
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Remove a stored credential and revoke it if the provider supports that
  export extern "qwenauth logout" [
    --all                     # Remove every stored profile
    --local                   # Do not ask the provider to revoke the credential
    --json                    # Print JSON
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  def "nu-complete qwenauth token format" [] {
    [ "raw" "json" "header" ]
  }

  # Print a valid access token, renewing it if necessary
  export extern "qwenauth token" [
    --min-ttl: string         # Minimum remaining lifetime of the token (default: 30s)
    --format: string@"nu-complete qwenauth token format" # Output format
    --short-lived             # Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help (see more with '--help')
  ]

  def "nu-complete qwenauth env format" [] {
    [ "sh" "fish" "powershell" "nushell" "elvish" "cmd" "dotenv" "json" "github" ]
  }

  # Print shell statements that export the credential
  export extern "qwenauth env" [
    --format: string@"nu-complete qwenauth env format" # Output format (default: `sh`, on Windows that of the shell that runs qwenauth)
    --unset                   # Print statements that remove the variables
    --native                  # Add the provider's own variables, such as `DASHSCOPE_API_KEY`, each with its base URL
    --model: string           # Model to set in `OPENAI_MODEL`
    --min-ttl: string         # Minimum remaining lifetime of the token (default: 10m, best effort)
    --short-lived             # Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help (see more with '--help')
  ]

  # Run a program with the credential in its environment
  export extern "qwenauth exec" [
    --gateway                 # Run the program behind its own gateway, so that it never sees the credential
    --preserve-env            # Keep the key and base URL if either is already set, whatever their names
    --native                  # Add the provider's own variables, such as `DASHSCOPE_API_KEY`, each with its base URL
    --model: string           # Model to set in `OPENAI_MODEL`
    --min-ttl: string         # Minimum remaining lifetime of the token (default: 10m, best effort)
    --short-lived             # Use a short-lived key (at most 30 min) created from the stored one (`dashscope` only)
    --as: string              # Treat CMD as this known program, if its name does not show it
    --allow-env-file          # Start a known program even if one of its files or options overrides host or key
    --verbose(-v)             # Show which variables were set
    --rpm: string             # Requests per minute (default: the provider's known limit)
    --rpd: string             # Requests per day; further requests are rejected
    --no-pacing               # Count requests without delaying any
    --max-wait: string        # Longest `Retry-After` to honor; longer ones are forwarded to the client
    --timeout: string         # Timeout for the first byte of a response and between chunks
    --max-body: string        # Maximum size of a request body
    --replay-limit: string    # Largest body kept in memory for retries
    --log: path               # Write one JSON line per request to this file (`-`: stdout), never a body or a key
    --fallback: string        # Profiles to use when the limit or plan of this one is used up or its service is down, for the models in `[fallback.models]` of config.toml
    --warn-at: string         # Warn once a day, and run the hook `limit_near`, when this share of the daily limit is used (default: never)
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help (see more with '--help')
    ...command: string        # The program and its arguments
  ]

  def "nu-complete qwenauth gateway serve" [] {
    [ "home" "edge" ]
  }

  # Run a local OpenAI-compatible proxy that holds the credential
  export extern "qwenauth gateway" [
    --listen: string          # Address to listen on (port 0 picks a free port), or `unix:PATH` for a socket of this user (not on Windows)
    --tls-cert: path          # Serve HTTPS with the certificate in this PEM file (reloaded when it changes)
    --tls-key: path           # Private key of the certificate
    --tls-client-ca: path     # Accept only clients with a certificate from a CA in this file
    --public-url: string      # URL that clients use for the gateway (default: from the certificate's first name)
    --plain-http              # Allow unencrypted HTTP on addresses other than loopback
    --shared                  # Count limits together with other gateways, on the Redis or Valkey server in `[team] shared` of config.toml or in `QWENAUTH_SHARED_URL`
    --serve: string@"nu-complete qwenauth gateway serve" # With `--shared`: renew the login of this machine for the other gateways (`home`), or use the tokens of a gateway that does (`edge`) (default: `home` if the profile is logged in here, else `edge`)
    --api-key-file: path      # Persist the key in this file; it is not printed
    --show-key                # Print the key of `--api-key-file` as well
    --keys                    # Accept the keys of `qwenauth keys`, each within its limits, which are counted on this machine or, with `--shared`, together with the other gateways
    --metrics-keys            # With `--keys`: add a metric for the budget of each key
    --allow-host: string      # Also accept this `Host` header; can be repeated
    --all-profiles            # Serve every stored profile, at `/p/NAME/v1`
    --metrics                 # Serve Prometheus metrics at `/metrics` (requires the key)
    --metrics-listen: string  # Also serve metrics, `/healthz` and `/readyz` at this address, without a key
    --drain: string           # Time for open requests to finish after Ctrl-C
    --install                 # Install and start it as a user service with these options (systemd, launchd)
    --uninstall               # Stop the service and remove it
    --json                    # Print JSON
    --rpm: string             # Requests per minute (default: the provider's known limit)
    --rpd: string             # Requests per day; further requests are rejected
    --no-pacing               # Count requests without delaying any
    --max-wait: string        # Longest `Retry-After` to honor; longer ones are forwarded to the client
    --timeout: string         # Timeout for the first byte of a response and between chunks
    --max-body: string        # Maximum size of a request body
    --replay-limit: string    # Largest body kept in memory for retries
    --log: path               # Write one JSON line per request to this file (`-`: stdout), never a body or a key
    --fallback: string        # Profiles to use when the limit or plan of this one is used up or its service is down, for the models in `[fallback.models]` of config.toml
    --warn-at: string         # Warn once a day, and run the hook `limit_near`, when this share of the daily limit is used (default: never)
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help (see more with '--help')
  ]

  def "nu-complete qwenauth usage by" [] {
    [ "key" "owner" "profile" "model" "day" ]
  }

  # Show gateway usage and remaining limits
  export extern "qwenauth usage" [
    --json                    # Print JSON
    --days: string            # Number of days, including today
    --check                   # Query the provider for the remaining quota, if supported
    --team                    # Show the usage of the keys of people and jobs
    --by: string@"nu-complete qwenauth usage by" # With `--team`: group the usage by this (default: key)
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Create and manage keys for the people and jobs that share a gateway
  export extern "qwenauth keys" [
    --help(-h)                # Print help
  ]

  # Create a key and print it once, alone on stdout
  export extern "qwenauth keys create" [
    --owner: string           # Owner of the key: a name or an address
    --rpm: string             # Requests per minute; further ones wait
    --rpd: string             # Requests per day (UTC); further ones are rejected
    --tpm: string             # Tokens per minute, of prompts and completions; further requests wait
    --tpd: string             # Tokens per day (UTC); further requests are rejected
    --parallel: string        # Requests in flight at once; further ones wait
    --budget: string          # Money per day, week or month: `20 USD/month`; further requests are rejected
    --models: string          # Models the key may use: names, or patterns with `*` and `?`; can be repeated
    --profiles: string        # Profiles the key may use; can be repeated
    --expires: string         # When the key expires: after a time (`30d`, `12h`) or at the end of a day (`2027-01-31`, UTC)
    --json                    # Print JSON
    --help(-h)                # Print help
    name: string              # Name of the key: letters, digits, `.`, `_` and `-`
  ]

  # List the keys with their limits and usage
  export extern "qwenauth keys list" [
    --json                    # Print JSON
    --help(-h)                # Print help
  ]

  # Change the limits of a key, from the next request on
  export extern "qwenauth keys set" [
    --owner: string           # Owner of the key: a name or an address
    --rpm: string             # Requests per minute; further ones wait
    --rpd: string             # Requests per day (UTC); further ones are rejected
    --tpm: string             # Tokens per minute, of prompts and completions; further requests wait
    --tpd: string             # Tokens per day (UTC); further requests are rejected
    --parallel: string        # Requests in flight at once; further ones wait
    --budget: string          # Money per day, week or month: `20 USD/month`; further requests are rejected
    --models: string          # Models the key may use: names, or patterns with `*` and `?`; can be repeated
    --profiles: string        # Profiles the key may use; can be repeated
    --expires: string         # When the key expires: after a time (`30d`, `12h`) or at the end of a day (`2027-01-31`, UTC)
    --json                    # Print JSON
    --help(-h)                # Print help
    name: string              # Name or id of the key
  ]

  # Replace a key with a new one that has the same name, limits and counters
  export extern "qwenauth keys rotate" [
    --overlap: string         # How long the old key stays valid
    --json                    # Print JSON
    --help(-h)                # Print help
    name: string              # Name or id of the key
  ]

  # Reset the spending of this period, so that the whole budget is available again
  export extern "qwenauth keys reset" [
    --help(-h)                # Print help
    name: string              # Name or id of the key
  ]

  # Revoke a key permanently; its next request is rejected
  export extern "qwenauth keys revoke" [
    --yes                     # Do not ask for confirmation
    --help(-h)                # Print help
    name: string              # Name or id of the key
  ]

  # Create the team secret, which is used to hash keys, and print its path
  export extern "qwenauth keys secret" [
    --help(-h)                # Print help
  ]

  # Print this message or the help of the given subcommand(s)
  export extern "qwenauth keys help" [
  ]

  # Create a key and print it once, alone on stdout
  export extern "qwenauth keys help create" [
  ]

  # List the keys with their limits and usage
  export extern "qwenauth keys help list" [
  ]

  # Change the limits of a key, from the next request on
  export extern "qwenauth keys help set" [
  ]

  # Replace a key with a new one that has the same name, limits and counters
  export extern "qwenauth keys help rotate" [
  ]

  # Reset the spending of this period, so that the whole budget is available again
  export extern "qwenauth keys help reset" [
  ]

  # Revoke a key permanently; its next request is rejected
  export extern "qwenauth keys help revoke" [
  ]

  # Create the team secret, which is used to hash keys, and print its path
  export extern "qwenauth keys help secret" [
  ]

  # Print this message or the help of the given subcommand(s)
  export extern "qwenauth keys help help" [
  ]

  # Compare the known providers: price, limits, CI, login methods available here
  export extern "qwenauth providers" [
    --json                    # Print JSON
    --help(-h)                # Print help
    name?: string             # Show all details of this provider
  ]

  # List the stored profiles
  export extern "qwenauth profiles" [
    --json                    # Print JSON
    --help(-h)                # Print help
  ]

  # Make a stored profile the active one
  export extern "qwenauth use" [
    --help(-h)                # Print help
    name: string              # The profile, as `qwenauth profiles` lists it
  ]

  # Configure a tool to use the active profile
  export extern "qwenauth setup" [
    --print                   # Print what would be written and change nothing
    --remove                  # Undo what was written
    --force                   # With `--remove`: also discard later manual edits
    --model: string           # The model the tool starts with
    --gateway: string         # Use a gateway at this address; its key is kept in a file
    --gateway-url: string     # Use the gateway of a team at this URL, with the key of its `--key-env` or `--key-file`; needs `--model`
    --key-env: string         # Variable from which the tool reads the team's key (default: `QWENAUTH_TEAM_KEY`)
    --key-file: path          # File with the team's key
    --json                    # Print the list as JSON
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    tool?: string             # The tool (default: list them)
  ]

  # Diagnose login problems
  export extern "qwenauth doctor" [
    --fix                     # Fix local problems: file modes, stale locks, leftover files, abandoned logins
    --team                    # Check the team's gateway that the active profile is logged in to: reachable, ready, its certificate
    --json                    # Print JSON
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Try qwenauth with a local practice provider: no account, no network
  export extern "qwenauth sandbox" [
    --tour                    # Show each command with its real output, then exit
    --no-approve              # Never approve automatically; wait for the approval page
    --expires-in: string      # Lifetime of the practice provider's access tokens
    --help(-h)                # Print help
    ...command: string        # The program to run inside (default: your shell)
  ]

  def "nu-complete qwenauth completions shell" [] {
    [ "bash" "zsh" "fish" "powershell" "elvish" "nushell" ]
  }

  # Print a shell completion script
  export extern "qwenauth completions" [
    --help(-h)                # Print help
    shell: string@"nu-complete qwenauth completions shell" # The shell
  ]

  # Print this message or the help of the given subcommand(s)
  export extern "qwenauth help" [
  ]

  # Log in and make the profile active
  export extern "qwenauth help login" [
  ]

  # Show login status
  export extern "qwenauth help status" [
  ]

  # Renew the access token now
  export extern "qwenauth help refresh" [
  ]

  # Remove a stored credential and revoke it if the provider supports that
  export extern "qwenauth help logout" [
  ]

  # Print a valid access token, renewing it if necessary
  export extern "qwenauth help token" [
  ]

  # Print shell statements that export the credential
  export extern "qwenauth help env" [
  ]

  # Run a program with the credential in its environment
  export extern "qwenauth help exec" [
  ]

  # Run a local OpenAI-compatible proxy that holds the credential
  export extern "qwenauth help gateway" [
  ]

  # Show gateway usage and remaining limits
  export extern "qwenauth help usage" [
  ]

  # Create and manage keys for the people and jobs that share a gateway
  export extern "qwenauth help keys" [
  ]

  # Create a key and print it once, alone on stdout
  export extern "qwenauth help keys create" [
  ]

  # List the keys with their limits and usage
  export extern "qwenauth help keys list" [
  ]

  # Change the limits of a key, from the next request on
  export extern "qwenauth help keys set" [
  ]

  # Replace a key with a new one that has the same name, limits and counters
  export extern "qwenauth help keys rotate" [
  ]

  # Reset the spending of this period, so that the whole budget is available again
  export extern "qwenauth help keys reset" [
  ]

  # Revoke a key permanently; its next request is rejected
  export extern "qwenauth help keys revoke" [
  ]

  # Create the team secret, which is used to hash keys, and print its path
  export extern "qwenauth help keys secret" [
  ]

  # Compare the known providers: price, limits, CI, login methods available here
  export extern "qwenauth help providers" [
  ]

  # List the stored profiles
  export extern "qwenauth help profiles" [
  ]

  # Make a stored profile the active one
  export extern "qwenauth help use" [
  ]

  # Configure a tool to use the active profile
  export extern "qwenauth help setup" [
  ]

  # Diagnose login problems
  export extern "qwenauth help doctor" [
  ]

  # Try qwenauth with a local practice provider: no account, no network
  export extern "qwenauth help sandbox" [
  ]

  # Print a shell completion script
  export extern "qwenauth help completions" [
  ]

  # Print this message or the help of the given subcommand(s)
  export extern "qwenauth help help" [
  ]

}

export use completions *
