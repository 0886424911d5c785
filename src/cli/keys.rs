//! The commands about keys of people and jobs.

use clap::{Args, Subcommand};

use super::manage::NoProfile;
use super::value::{Bound, bound, duration};

/// Create and manage keys for the people and jobs that share a gateway
#[derive(Debug, Args)]
#[command(
    after_help = "A key is for one person or job. `qwenauth gateway --keys` accepts all valid keys, enforces their limits and counts \
                  their usage; a change applies from the next request on. Only a hash of a key is stored.

Examples:
  qwenauth keys create ann --owner ann@example.com --rpm 60
  qwenauth keys create ci --models 'qwen3-coder*' --parallel 4 --expires 90d
  qwenauth gateway --keys
  qwenauth keys list
  qwenauth keys set ann --rpm 120
  qwenauth keys rotate ci --overlap 24h
  qwenauth keys revoke ann --yes"
)]
pub(crate) struct KeysArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    Create(CreateKeyArgs),
    List(ListKeysArgs),
    Set(SetKeyArgs),
    Rotate(RotateKeyArgs),
    Reset(ResetKeyArgs),
    Revoke(RevokeKeyArgs),
    Secret(TeamSecretArgs),
}

/// Create a key and print it once, alone on stdout
#[derive(Debug, Args)]
#[command(
    after_help = "The key is shown only once. Send it over a confidential channel, or pipe it to its destination.

A budget is in US dollars and needs the prices of the models in config.toml, per million tokens:
  [prices.\"qwen3-coder-plus\"]
  input = 1.0
  output = 5.0

Examples:
  qwenauth keys create ann --owner ann@example.com --budget '20 USD/month'
  qwenauth keys create ci --models 'qwen3-coder*' --rpm 60 --expires 90d
  qwenauth keys create job --parallel 4 | gh secret set QWEN_KEY
  qwenauth keys create report --tpd 2000000 --profiles dashscope --json"
)]
pub(crate) struct CreateKeyArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Name of the key: letters, digits, `.`, `_` and `-`
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) limits: KeyLimitOptions,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The limits of a key.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct KeyLimitOptions {
    /// Owner of the key: a name or an address
    #[arg(long, value_name = "TEXT")]
    pub(crate) owner: Option<String>,
    /// Requests per minute; further ones wait
    #[arg(long, value_name = "N", value_parser = bound)]
    pub(crate) rpm: Option<Bound>,
    /// Requests per day (UTC); further ones are rejected
    #[arg(long, value_name = "N", value_parser = bound)]
    pub(crate) rpd: Option<Bound>,
    /// Tokens per minute, of prompts and completions; further requests wait
    #[arg(long, value_name = "N", value_parser = bound)]
    pub(crate) tpm: Option<Bound>,
    /// Tokens per day (UTC); further requests are rejected
    #[arg(long, value_name = "N", value_parser = bound)]
    pub(crate) tpd: Option<Bound>,
    /// Requests in flight at once; further ones wait
    #[arg(long, value_name = "N", value_parser = bound)]
    pub(crate) parallel: Option<Bound>,
    /// Money per day, week or month: `20 USD/month`; further requests are rejected
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) budget: Option<String>,
    /// Models the key may use: names, or patterns with `*` and `?`; can be repeated
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    pub(crate) models: Vec<String>,
    /// Profiles the key may use; can be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) profiles: Vec<String>,
    /// When the key expires: after a time (`30d`, `12h`) or at the end of a day (`2027-01-31`, UTC)
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
}

/// List the keys with their limits and usage
#[derive(Debug, Args)]
#[command(after_help = "No key is shown: only hashes are stored.

Examples:
  qwenauth keys list
  qwenauth keys list --json | jq -r '.keys[] | .name + \" \" + .state'")]
pub(crate) struct ListKeysArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Change the limits of a key, from the next request on
#[derive(Debug, Args)]
#[command(
    after_help = "Only the given limits change; `none` removes one. `--models` and `--profiles` replace the whole list.

Examples:
  qwenauth keys set ann --rpm 120 --budget '50 USD/month'
  qwenauth keys set ci --rpm none --models 'qwen3-*'
  qwenauth keys set ci --expires 30d"
)]
pub(crate) struct SetKeyArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Name or id of the key
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) limits: KeyLimitOptions,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Replace a key with a new one that has the same name, limits and counters
#[derive(Debug, Args)]
#[command(
    after_help = "The new key is printed once, alone on stdout. Without `--overlap` the old one becomes invalid at once.

Examples:
  qwenauth keys rotate ann
  qwenauth keys rotate ci --overlap 24h | gh secret set QWEN_KEY"
)]
pub(crate) struct RotateKeyArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Name or id of the key
    pub(crate) name: String,
    /// How long the old key stays valid
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub(crate) overlap: std::time::Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reset the spending of this period, so that the whole budget is available again
#[derive(Debug, Args)]
#[command(after_help = "The budget itself and the usage that `qwenauth usage --team` shows do not change.

Examples:
  qwenauth keys reset ann")]
pub(crate) struct ResetKeyArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Name or id of the key
    pub(crate) name: String,
}

/// Revoke a key permanently; its next request is rejected
#[derive(Debug, Args)]
#[command(after_help = "Requests in flight are not affected.

Examples:
  qwenauth keys revoke ann
  qwenauth keys revoke ci --yes           without confirmation, for scripts")]
pub(crate) struct RevokeKeyArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
    /// Name or id of the key
    pub(crate) name: String,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Create the team secret, which is used to hash keys, and print its path
#[derive(Debug, Args)]
#[command(
    after_help = "The first `keys create` also creates it. An existing secret is kept, because with another one all keys \
                  would be invalid. Gateways on other machines need a copy; `secret_file` in `[team]` of config.toml names its file.

Examples:
  qwenauth keys secret"
)]
pub(crate) struct TeamSecretArgs {
    #[command(flatten)]
    pub(crate) no_profile: NoProfile,
}
