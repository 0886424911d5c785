//! Whether the gateway is installed as a service, and runs.

use super::Check;
use crate::paths;
use crate::platform::service::{self, ServicePaths, State};
use crate::session::Session;

pub(super) fn check(session: &Session) -> Vec<Check> {
    let environment = &session.environment;
    let (Ok(home), Ok(config)) = (paths::home(environment), paths::config_base(environment)) else {
        return Vec::new();
    };
    let paths = ServicePaths { home: &home, config: &config };
    match service::state(&paths) {
        State::Missing => Vec::new(),
        State::Running => {
            let when = service::ends_with_the_session().map(|when| format!("; {when}")).unwrap_or_default();
            vec![Check::ok("gateway", format!("runs as a service: `{}`{when}", service::file(&paths).display()))]
        }
        State::Stopped => vec![Check::warn(
            "gateway",
            format!("is installed as a service, but does not run: `{}`", service::file(&paths).display()),
            format!("run `{}` to see why; `qwenauth gateway --install` starts it again", service::messages()),
        )],
    }
}
