module completions {

  # Log in to Qwen models once and hand the credential to any tool
  export extern qwenauth [
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    --version(-V)             # Print version
  ]

  def "nu-complete qwenauth login qr" [] {
    [ "auto" "always" "never" ]
  }

  # Log in and make the profile active
  export extern "qwenauth login" [
    --force                   # Log in again although a valid login exists
    --api-key-stdin           # Read the API key from stdin
    --api-key-env: string     # Take the API key from this environment variable
    --base-url: string        # Where the API lives, for `custom` or a workspace's own domain
    --region: string          # The region the key belongs to (default: found out)
    --code-stdin              # OpenRouter: read the code that the browser shows from stdin
    --key-label: string       # OpenRouter: the name of the new key
    --limit: string           # OpenRouter: the most that the new key may spend, in US dollars
    --no-browser              # Do not open a browser
    --qr: string@"nu-complete qwenauth login qr" # Draw the verification URL as a QR code on stderr
    --clipboard               # Copy the code, or the address where there is none, to the clipboard of the terminal (OSC 52)
    --no-verify               # Do not prove the login with a request to the API
    --no-wait                 # Show the code, keep the login pending and leave: for scripts and agents
    --resume                  # Wait for the pending login; start none
    --timeout: string         # Give up after this long, for example `90s` or `5m`
    --model: string           # The model that `env` and `exec` name for this profile
    --json                    # Print events for a script, one JSON object a line
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help (see more with '--help')
    provider?: string         # The provider to log in to; without one, chosen on a terminal, else `qwen`
  ]

  # Show where the login stands
  export extern "qwenauth status" [
    --json                    # Print JSON
    --all                     # Show every stored profile
    --check                   # Ask the API whether it accepts the credential
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Renew the access token now
  export extern "qwenauth refresh" [
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Remove a stored credential, revoking it where the provider can
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

  # Print an access token that is good for a while
  export extern "qwenauth token" [
    --min-ttl: string         # How long the token must be good for (default: 30s)
    --format: string@"nu-complete qwenauth token format"
    --short-lived             # Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help (see more with '--help')
  ]

  def "nu-complete qwenauth env format" [] {
    [ "sh" "fish" "powershell" "nushell" "elvish" "cmd" "dotenv" "json" "github" ]
  }

  # Print shell statements that export the credential
  export extern "qwenauth env" [
    --format: string@"nu-complete qwenauth env format" # Shell or file that reads the output (default: `sh`, on Windows the shell that runs qwenauth)
    --unset                   # Print statements that remove the variables
    --native                  # Add the provider's own variables, such as `DASHSCOPE_API_KEY`, each with its base URL
    --model: string           # The model to name in `OPENAI_MODEL`
    --min-ttl: string         # How long the token must be good for (default: 10m if it can be had)
    --short-lived             # Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help (see more with '--help')
  ]

  # Run a program with the credential in its environment
  export extern "qwenauth exec" [
    --gateway                 # Keep the credential in a gateway that lives as long as the program
    --preserve-env            # Keep the key and base URL if one of any family is already set
    --native                  # Add the provider's own variables, such as `DASHSCOPE_API_KEY`, each with its base URL
    --model: string           # The model to name in `OPENAI_MODEL`
    --min-ttl: string         # How long the token must be good for (default: 10m if it can be had)
    --rpm: string             # Requests a minute, instead of what is known of the provider
    --rpd: string             # Requests a day, after which the gateway refuses
    --no-pacing               # Count requests, but let none wait
    --max-wait: string        # Longest wait that the provider may ask for before it is asked again
    --timeout: string         # Longest time until an answer begins, and between two pieces of it
    --max-body: string        # Longest request
    --replay-limit: string    # Longest request that is kept to be sent again
    --log: path               # Write a JSON line per request to this file, or with `-` to stdout; never a body or a key
    --fallback: string        # Other profiles that serve when the limit, plan or service of this one is over, by the map `[fallback.models]` in config.toml
    --warn-at: string         # Say so, once a day, when this much of the day's limit is used
    --short-lived             # Hand out a key of at most 30 minutes minted from the stored one (`dashscope`)
    --as: string              # The known program that CMD is, where its name does not tell
    --allow-env-file          # Start a known program although a file that it reads, or an option of its own, replaces host or key
    --verbose(-v)             # Say which variables were set
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    ...command: string        # The program and its arguments
  ]

  # Serve an OpenAI-compatible API on this machine that keeps the credential to itself
  export extern "qwenauth gateway" [
    --listen: string          # Where to listen; port 0 takes a free one
    --plain-http              # Listen beyond this machine although nothing encrypts what passes
    --api-key-file: path      # Keep the key in this file over restarts; it is not printed
    --show-key                # Print the key of `--api-key-file` as well
    --allow-host: string      # Answer to this host name as well; can be repeated
    --all-profiles            # Serve every stored profile, at `/p/NAME/v1`
    --metrics                 # Serve counters for Prometheus at `/metrics`, behind the key
    --drain: string           # How long requests may take to finish after Ctrl-C
    --install                 # Run it as a service of yours from now on, with these options (systemd, launchd)
    --uninstall               # Stop the service and remove it
    --json                    # Print JSON
    --rpm: string             # Requests a minute, instead of what is known of the provider
    --rpd: string             # Requests a day, after which the gateway refuses
    --no-pacing               # Count requests, but let none wait
    --max-wait: string        # Longest wait that the provider may ask for before it is asked again
    --timeout: string         # Longest time until an answer begins, and between two pieces of it
    --max-body: string        # Longest request
    --replay-limit: string    # Longest request that is kept to be sent again
    --log: path               # Write a JSON line per request to this file, or with `-` to stdout; never a body or a key
    --fallback: string        # Other profiles that serve when the limit, plan or service of this one is over, by the map `[fallback.models]` in config.toml
    --warn-at: string         # Say so, once a day, when this much of the day's limit is used
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Show what passed through the gateway and what limits leave
  export extern "qwenauth usage" [
    --json                    # Print JSON
    --days: string            # How many days, today included
    --check                   # Ask the provider what is left, where it can be asked
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Compare the known providers: price, limits, CI, what works here
  export extern "qwenauth providers" [
    --json                    # Print JSON
    --markdown                # Print the Markdown table of the README: how each is logged in to, and how far that was tried
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    name?: string             # Show this one in full
  ]

  # List the stored profiles
  export extern "qwenauth profiles" [
    --json                    # Print JSON
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Make a stored profile the active one
  export extern "qwenauth use" [
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    name: string              # The profile, as `qwenauth profiles` lists it
  ]

  # Set up a tool to use the active profile
  export extern "qwenauth setup" [
    --print                   # Print what would be written and change nothing
    --remove                  # Undo what was written
    --force                   # With `--remove`: also what was edited by hand since
    --model: string           # The model the tool starts with
    --gateway: string         # Use a gateway on this address, whose key stays in a file
    --json                    # Print the list as JSON
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    tool?: string             # The tool (default: list them)
  ]

  # Look for what keeps a login from working
  export extern "qwenauth doctor" [
    --fix                     # Repair what is local: modes, stale locks, leftover files, logins nobody completed
    --json                    # Print JSON
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
  ]

  # Try everything against a practice provider on this machine: no account, no network
  export extern "qwenauth sandbox" [
    --tour                    # Show each command with its real output, then leave
    --no-approve              # Approve nothing by itself, even without a terminal: every login waits for the page
    --expires-in: string      # How long access tokens of the practice provider live
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    ...command: string        # The program to run inside (default: your shell)
  ]

  def "nu-complete qwenauth completions shell" [] {
    [ "bash" "zsh" "fish" "powershell" "elvish" "nushell" ]
  }

  # Print a completion script
  export extern "qwenauth completions" [
    --profile: string         # Use this profile instead of the active one
    --help(-h)                # Print help
    shell: string@"nu-complete qwenauth completions shell"
  ]

  # Print this message or the help of the given subcommand(s)
  export extern "qwenauth help" [
  ]

  # Log in and make the profile active
  export extern "qwenauth help login" [
  ]

  # Show where the login stands
  export extern "qwenauth help status" [
  ]

  # Renew the access token now
  export extern "qwenauth help refresh" [
  ]

  # Remove a stored credential, revoking it where the provider can
  export extern "qwenauth help logout" [
  ]

  # Print an access token that is good for a while
  export extern "qwenauth help token" [
  ]

  # Print shell statements that export the credential
  export extern "qwenauth help env" [
  ]

  # Run a program with the credential in its environment
  export extern "qwenauth help exec" [
  ]

  # Serve an OpenAI-compatible API on this machine that keeps the credential to itself
  export extern "qwenauth help gateway" [
  ]

  # Show what passed through the gateway and what limits leave
  export extern "qwenauth help usage" [
  ]

  # Compare the known providers: price, limits, CI, what works here
  export extern "qwenauth help providers" [
  ]

  # List the stored profiles
  export extern "qwenauth help profiles" [
  ]

  # Make a stored profile the active one
  export extern "qwenauth help use" [
  ]

  # Set up a tool to use the active profile
  export extern "qwenauth help setup" [
  ]

  # Look for what keeps a login from working
  export extern "qwenauth help doctor" [
  ]

  # Try everything against a practice provider on this machine: no account, no network
  export extern "qwenauth help sandbox" [
  ]

  # Print a completion script
  export extern "qwenauth help completions" [
  ]

  # Print this message or the help of the given subcommand(s)
  export extern "qwenauth help help" [
  ]

}

export use completions *
