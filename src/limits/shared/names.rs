//! The names of what is stored on the server.

/// The names of a namespace. All have the same hash tag, so that they are in one slot of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Names(String);

impl Names {
    pub(crate) fn new(namespace: &str) -> Self {
        Self(format!("{{qa:{namespace}}}"))
    }

    pub(crate) fn of(&self, rest: &str) -> String {
        // Written for every limit of a request, and `format!` takes five times as long.
        let mut name = String::with_capacity(self.0.len() + 1 + rest.len());
        name.push_str(&self.0);
        name.push(':');
        name.push_str(rest);
        name
    }

    pub(super) fn epoch(&self) -> String {
        self.of("epoch")
    }

    pub(super) fn gateways(&self) -> String {
        self.of("gateways")
    }

    /// The records of all keys by id. Fields that start with a colon say where the records are from.
    pub(super) fn records(&self) -> String {
        self.of("keys")
    }

    /// When each key was last used.
    pub(super) fn used_at(&self) -> String {
        self.of("used")
    }

    pub(super) fn audit(&self) -> String {
        self.of("audit")
    }

    /// What passed through all gateways on a day.
    pub(super) fn usage(&self, day: &str) -> String {
        self.of(&format!("usage:{day}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gateways of several versions, and operators, look there.
    #[test]
    fn names_are_the_same_in_every_version() {
        let names = Names::new("team");
        let all = [names.of("a:b"), names.epoch(), names.gateways(), names.records(), names.used_at(), names.audit()];
        let expected = ["a:b", "epoch", "gateways", "keys", "used", "audit"].map(|name| format!("{{qa:team}}:{name}"));
        assert_eq!(all, expected);
        assert_eq!(names.usage("2026-01-02"), "{qa:team}:usage:2026-01-02");
    }
}
