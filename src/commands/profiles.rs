//! `profiles`: list the stored profiles.

use anyhow::Result;
use serde_json::json;

use super::{print, print_document, print_message, shown_key};
use crate::cli::ProfilesArgs;
use crate::credentials::{Credential, Kind, Stored};
use crate::error::{Report, note, printable};
use crate::profile::SecretStore;
use crate::say::{Screen, Style, cell, columns};
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
                (None, "unreadable", "cannot be read".to_owned(), "file")
            }
            Ok(Stored::Present(credential)) => {
                let kind = if credential.kind == Kind::ApiKey { "api_key" } else { "oauth" };
                let shown = in_words(&credential, session);
                (Some(credential.provider_name().to_owned()), kind, shown, credential.secret_store.name())
            }
            Ok(Stored::Damaged(_)) => (None, "damaged", "damaged".to_owned(), "file"),
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
        lines.push((active, [profile.to_string(), printable(provider.as_deref().unwrap_or("?")), printable(&shown)]));
    }
    if args.json {
        return print_document(&json!({ "schema": 1, "profiles": rows }));
    }
    if lines.is_empty() {
        return print_message("no stored profile; log in with `qwenauth login`");
    }
    print(&table(&lines, Screen::stdout()))
}

/// What is stored, as `status` names it.
fn in_words(credential: &Credential, session: &Session) -> String {
    match shown_key(credential, &session.config.overrides) {
        Some(key) => format!("API key {key}"),
        None if credential.is_keyless() => "none (the server needs no key)".to_owned(),
        None if credential.secret_store == SecretStore::Keyring => "access token in the keyring".to_owned(),
        None => "access token".to_owned(),
    }
}

/// Each row: whether it is the active profile, its name, its provider and what is stored.
fn table(rows: &[(bool, [String; 3])], screen: Screen) -> String {
    let heads = ["PROFILE", "PROVIDER", "CREDENTIAL"].map(|head| screen.translate(head));
    let width =
        |column: usize| rows.iter().map(|(_, row)| columns(&row[column])).fold(columns(&heads[column]), usize::max);
    let widths = [width(0), width(1)];
    let line = |mark: &str, [profile, provider, credential]: &[String; 3]| {
        let lead = format!("{mark} {}  {}  ", cell(profile, widths[0]), cell(provider, widths[1]));
        let wrapped = screen.wrap(&screen.translate(credential), columns(&lead), columns(&lead));
        lead + &wrapped.join("\n") + "\n"
    };
    let head = screen.paint(Style::Dim, line(" ", &heads).trim_end()) + "\n";
    head + &rows.iter().map(|(active, row)| line(if *active { "*" } else { " " }, row)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_as_wide_as_what_they_hold() {
        let row = |active: bool, row: [&str; 3]| (active, row.map(str::to_owned));
        let rows = [row(true, ["groq", "groq", "API key"]), row(false, ["a-long-name", "custom", "access token"])];
        assert_eq!(
            table(&rows, Screen::stdout()),
            "  PROFILE      PROVIDER  CREDENTIAL\n\
             * groq         groq      API key\n\
             \u{20} a-long-name  custom    access token\n"
        );
    }
}
