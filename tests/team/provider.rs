//! The provider of a team: it answers every chat alike, and its log is the judge of limits.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::cli::support::server::{Reply, Request, Server};

/// What each chat uses.
pub(crate) const PROMPT_TOKENS: u64 = 7;
pub(crate) const COMPLETION_TOKENS: u64 = 3;

/// A request about this is never answered.
pub(crate) const HELD: &str = "held";

pub(crate) struct Provider {
    pub(crate) server: Arc<Server>,
}

impl Provider {
    pub(crate) fn start() -> Self {
        let server = Server::start();
        server.serve("/v1/chat/completions", |request| {
            if request.path.ends_with(HELD) {
                return Reply::silence();
            }
            let usage = json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS});
            let choices = json!([{"message": {"content": "hi"}}]);
            let body = json!({"object": "chat.completion", "model": "m", "choices": choices, "usage": usage});
            Reply::json(200, body)
        });
        Self { server: Arc::new(server) }
    }

    /// How many requests arrived about `word`.
    pub(crate) fn asked_about(&self, word: &str) -> usize {
        let ending = format!("?about={word}");
        self.asked().iter().filter(|asked| asked.path.ends_with(&ending)).count()
    }

    /// All that arrived, in the order of time.
    pub(crate) fn asked(&self) -> Vec<Request> {
        let mut asked = self.server.requests();
        asked.sort_by_key(|asked| asked.at);
        asked
    }

    /// The most requests that arrived within any `window`.
    pub(crate) fn most_within(&self, window: Duration) -> usize {
        let asked = self.asked();
        let within = |(index, first): (usize, &Request)| {
            asked[index..].iter().take_while(|next| next.at < first.at + window).count()
        };
        asked.iter().enumerate().map(within).max().unwrap_or_default()
    }
}
