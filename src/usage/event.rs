//! Events of a gateway other than its requests: the one type that hooks and logs receive.

use serde::Serialize;

use crate::providers::error::Cause;

/// An event. Never a secret, a body or a header's value.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// As much of a daily limit is used as `--warn-at` names.
    LimitNear { profile: String, provider: String, used: u64, limit: u64, resets_at: Option<String> },
    /// A limit is used up.
    LimitReached {
        profile: String,
        provider: String,
        /// `null`: all models.
        model: Option<String>,
        limit: Cause,
        message: String,
        resets_at: Option<String>,
    },
    /// No credential is available until the user logs in.
    LoginRequired { profile: String, message: String },
    /// A credential was renewed.
    Renewed { profile: String, provider: String, expires_at: Option<String> },
    /// Another profile serves what the first one no longer does, or the first one serves again.
    Fallback { from: String, to: String, model: String, target_model: String, reason: &'static str },
}

impl Event {
    /// Its name in `[hooks]`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::LimitNear { .. } => "limit_near",
            Self::LimitReached { .. } => "limit_reached",
            Self::LoginRequired { .. } => "login_required",
            Self::Renewed { .. } => "renewed",
            Self::Fallback { .. } => "fallback",
        }
    }

    /// One line, for the log.
    pub(crate) fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_an_event_has_its_name_and_its_fields() {
        let event = Event::LoginRequired { profile: "work".into(), message: "gone".into() };
        assert_eq!(event.line(), r#"{"event":"login_required","profile":"work","message":"gone"}"#);
        assert_eq!(event.name(), "login_required");
    }
}
