//! The scripts that the server runs, and how they are called.
//!
//! Those that run for every request have flat arguments and a flat answer: JSON costs them more than what they decide.
//! All others have one argument and an answer in JSON.

use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("admit.lua")));
pub(super) static FINISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("finish.lua")));
pub(super) static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("beat.lua")));
pub(super) static REJOIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("rejoin.lua")));
pub(super) static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("publish.lua")));
pub(super) static LOOK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("look.lua")));
pub(super) static LEDGER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("ledger.lua")));

/// The command that calls a script with this number of keys. The keys and the arguments are to be added.
pub(super) fn command(script: &Script, keys: usize) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys);
    command
}

/// Calls a script by its complete command. A server that does not have the script gets it.
pub(super) async fn call<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    script: &Script,
    command: &Cmd,
) -> RedisResult<T> {
    match command.query_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.load_async(connection).await?;
            command.query_async(connection).await
        }
        answered => answered,
    }
}

/// Calls a script with an argument and an answer in JSON.
pub(super) async fn run<T: DeserializeOwned>(
    connection: &mut MultiplexedConnection,
    script: &Script,
    keys: &[String],
    said: &Value,
) -> RedisResult<T> {
    let mut command = command(script, keys.len());
    for key in keys {
        command.arg(key);
    }
    command.arg(said.to_string());
    let text: String = call(connection, script, &command).await?;
    serde_json::from_str(&text).map_err(|_| unreadable())
}

/// The answer is none of the script's.
pub(super) fn unreadable() -> redis::RedisError {
    (ErrorKind::UnexpectedReturnType, "the response of a script is invalid").into()
}

/// Counts as the scripts write them into JSON: integers, as text. A negative count is zero.
pub(super) fn counts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    use serde::Deserialize;
    Ok(Vec::<String>::deserialize(deserializer)?.iter().map(|text| count(text)).collect())
}

pub(super) fn count(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}
