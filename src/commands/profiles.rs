//! `profiles`: list the stored profiles.

use anyhow::Result;
use serde_json::json;

use super::{print, print_document};
use crate::cli::ProfilesArgs;
use crate::credentials::{Kind, Stored};
use crate::error::{Report, note, printable};
use crate::say::Screen;
use crate::session::Session;

pub(crate) fn run(args: &ProfilesArgs, session: &Session) -> Result<()> {
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    for profile in session.profiles()? {
        let source = session.source_of(&profile);
        let (provider, kind, shown, store) = match source.load_record() {
            // One that cannot be read does not hide the others.
            Err(error) => {
                note(&format!("warning: {}", Report::of(&error).message));
                (None, "unreadable", "unreadable", "file")
            }
            Ok(Stored::Present(credential)) => {
                let kind = if credential.kind == Kind::ApiKey { "api_key" } else { "oauth" };
                let shown = if credential.is_keyless() { "no_key" } else { kind };
                (Some(credential.provider_name().to_owned()), kind, shown, credential.secret_store.name())
            }
            Ok(Stored::Damaged(_)) => (None, "damaged", "damaged", "file"),
            Ok(Stored::Missing) => continue,
        };
        let active = session.credential_variable().is_none() && profile == session.profile;
        rows.push(json!({
            "profile": profile.as_str(),
            "provider": provider,
            "kind": kind,
            "active": active,
            "store": store,
            "path": source.watched().unwrap_or(source.store.path()).display().to_string(),
        }));
        let provider = printable(provider.as_deref().unwrap_or("?"));
        let place = if store == "file" { String::new() } else { format!(", by {store}") };
        let mark = if active { '*' } else { ' ' };
        lines.push(format!("{mark} {:<20} {provider:<14} {shown}{place}\n", profile.as_str()));
    }
    if args.json {
        return print_document(&json!({ "schema": 1, "profiles": rows }));
    }
    if lines.is_empty() {
        let none = Screen::stdout().translate("no stored profile; log in with `qwenauth login`");
        return print(&format!("{none}\n"));
    }
    print(&lines.concat())
}
