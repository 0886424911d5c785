//! Whether this gateway has the team secret under which the keys on the server are made.
//!
//! Hazard: a gateway with another secret rejects every key, and nothing says why. Rule: who publishes the keys adds a hash of
//! the secret, and every gateway compares it with that of its own.

use std::cell::{Cell, RefCell};

use crate::error::{Failed, Failure};

/// The secret of this gateway, as far as the server may know it.
#[derive(Default)]
pub(super) struct SecretCheck {
    own: RefCell<Option<String>>,
    differs: Cell<bool>,
}

impl SecretCheck {
    /// A gateway with keys has this secret.
    pub(super) fn set(&self, check: String) {
        self.own.replace(Some(check));
    }

    /// Whether the keys on the server are made under another secret.
    pub(super) fn differs(&self) -> bool {
        self.differs.get()
    }

    pub(super) fn own(&self) -> Option<String> {
        self.own.borrow().clone()
    }

    /// Whether it is now known to be another one, and was not before.
    pub(super) fn compare(&self, there: Option<&str>) -> bool {
        let own = self.own.borrow();
        let (Some(own), Some(there)) = (own.as_deref(), there) else { return false };
        !self.differs.replace(own != there) && own != there
    }
}

pub(super) fn sentence(server: &str) -> String {
    format!("the keys at `{server}` were created with another team secret than the one of this gateway")
}

pub(super) fn refusal(server: &str, host: Option<&str>) -> Failed {
    let from = host.map_or_else(|| "the machine where the keys are managed".to_owned(), |host| format!("`{host}`"));
    Failed::new(Failure::Other, sentence(server)).hint(format!("copy the file that `secret_file` names from {from}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_secret_is_noticed_once_and_again_after_it_was_the_same() {
        let check = SecretCheck::default();
        assert!(!check.compare(Some("x")) && !check.differs(), "a gateway without keys has none");
        check.set("own".into());
        assert_eq!(check.own().as_deref(), Some("own"));
        for (there, is_news, differs) in [
            (None, false, false),
            (Some("own"), false, false),
            (Some("other"), true, true),
            (Some("other"), false, true),
            (None, false, true),
            (Some("own"), false, false),
            (Some("other"), true, true),
        ] {
            assert_eq!((check.compare(there), check.differs()), (is_news, differs), "{there:?}");
        }
    }

    #[test]
    fn a_refusal_says_where_the_secret_is() {
        let hint = |host| format!("{:?}", refusal("redis://a:1", host));
        assert!(hint(Some("maker")).contains("`maker`") && hint(None).contains("where the keys are managed"));
        assert!(sentence("redis://a:1").contains("`redis://a:1`") && sentence("").contains("another team secret"));
    }
}
