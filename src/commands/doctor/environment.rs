//! The environment: keys and base URLs of other services, proxies, certificates, a `QWEN_HOME` that only Qwen Code
//! sees.

use std::path::{Path, PathBuf};

use url::Url;

use super::{Check, active, proxy};
use crate::credentials::Stored;
use crate::environment::variable;
use crate::error::{Report, for_sh, has_user_info, path_for_sh, split_user_info};
use crate::paths;
use crate::platform::files::{self, Content, Privacy};
use crate::platform::system;
use crate::providers;
use crate::secret::Secret;
use crate::session::{Endpoint, Session};
use crate::setup::{self, TOOLS, Tool};
use crate::tls::{self, Broken};

pub(super) fn check(session: &Session) -> Vec<Check> {
    let mut checks = openai(session);
    checks.extend(given(session));
    checks.extend(set_up_tools(session));
    checks.extend(proxy::check());
    checks.extend(certificates());
    checks.extend(qwen_home(session));
    checks.extend(base_directories());
    checks
}

/// Variables of the XDG base directory specification, by which a relative path is ignored.
fn base_directories() -> Vec<Check> {
    let is_relative = |name: &&str| variable(name).is_some_and(|value| Path::new(&value).is_relative());
    let ignored = |name: &str| {
        Check::warn(
            "variables",
            format!("`{name}` is a relative path and is ignored, as the XDG specification requires"),
            format!("set it to an absolute path, or `unset {name}`"),
        )
    };
    let names = [system::CONFIG.0, system::DATA.0, system::STATE.0];
    let overruled = variable("QWENAUTH_HOME").is_some();
    names.iter().filter(|name| !overruled && is_relative(name)).map(|name| ignored(name)).collect()
}

/// A credential in the environment precedes every stored one.
fn given(session: &Session) -> Option<Check> {
    let variable = session.credential_variable()?;
    Some(match session.given_key() {
        Ok(_) if session.profiles().is_ok_and(|stored| stored.is_empty()) => {
            Check::ok("variables", format!("the key in `{variable}` is used; no profile is stored"))
        }
        Ok(_) => Check::warn(
            "variables",
            format!("the key in `{variable}` is used before any stored credential"),
            format!("`unset {variable}` to use the stored credential"),
        ),
        Err(error) => {
            let report = Report::of(&error);
            Check::fail("variables", report.message, report.hint.unwrap_or_else(|| format!("`unset {variable}`")))
        }
    })
}

fn text(name: &str) -> Option<String> {
    variable(name).map(|value| value.to_string_lossy().into_owned())
}

fn openai(session: &Session) -> Vec<Check> {
    let mut checks = Vec::new();
    let (base, old, key) = (text("OPENAI_BASE_URL"), text("OPENAI_API_BASE"), text("OPENAI_API_KEY"));
    if let (Some(base), Some(old)) = (&base, &old)
        && base.trim_end_matches('/') != old.trim_end_matches('/')
    {
        checks.push(Check::fail(
            "variables",
            "`OPENAI_BASE_URL` and `OPENAI_API_BASE` differ; which one is used depends on the program",
            "`unset OPENAI_API_BASE`, or `eval \"$(qwenauth env)\"` sets both",
        ));
    }
    let Some(source) = active(session) else { return checks };
    let ours = match source.load() {
        Ok(Stored::Present(credential)) => {
            let base = Endpoint::of(&source, &credential, None).map(|endpoint| endpoint.base_url).unwrap_or_default();
            let same = key.as_deref() == Some(credential.access_token.expose());
            Some((base, same))
        }
        _ => None,
    };
    let profile = &source.profile;
    let host = |text: &str| {
        let without = split_user_info(text).filter(|_| has_user_info(text));
        let text = without.map_or_else(|| text.to_owned(), |(scheme, _, rest)| format!("{scheme}{rest}"));
        Url::parse(&text).ok().and_then(|url| url.host_str().map(str::to_owned))
    };
    let Some(key) = key else {
        if base.or(old).is_some() {
            let what = "`OPENAI_BASE_URL` is set without `OPENAI_API_KEY`: programs may send another key to it";
            checks.push(Check::warn("variables", what, "`unset OPENAI_BASE_URL OPENAI_API_BASE`"));
        }
        return checks;
    };
    let goes_to = base.or(old).and_then(|base| host(&base)).unwrap_or_else(|| "api.openai.com".into());
    let is_of_host = |name: &String| {
        let provider = providers::find(name, &source.overrides);
        provider.is_ok_and(|provider| host(&provider.base_url).as_deref() == Some(goes_to.as_str()))
    };
    let owners = providers::owners_of(&Secret::new(key.clone()), &source.overrides);
    let of_another = owners
        .is_some_and(|(prefix, owners)| providers::is_telling(&prefix) && !owners.iter().any(is_of_host))
        // Some keys of DashScope, whose others begin as those of OpenAI.
        || key.starts_with("sk-ws-");
    match ours {
        Some((base, true)) if host(&base).as_deref() == Some(goes_to.as_str()) => {
            checks.push(Check::ok("variables", format!("`OPENAI_…` is `{profile}`'s")));
        }
        Some((_, true)) => checks.push(Check::fail(
            "variables",
            format!("the key of `{profile}` would be sent to `{goes_to}`, which is not its host"),
            "`eval \"$(qwenauth env)\"` sets both together",
        )),
        _ if goes_to == "api.openai.com" && of_another => checks.push(Check::fail(
            "variables",
            "`OPENAI_API_KEY` holds another provider's key and would be sent to `api.openai.com`",
            "set `OPENAI_BASE_URL` with it, or `unset OPENAI_API_KEY`",
        )),
        _ => checks.push(Check::warn(
            "variables",
            format!("`OPENAI_API_KEY` is set and goes to `{goes_to}`: programs use it instead of `{profile}`"),
            "`qwenauth exec` replaces it for one program; `eval \"$(qwenauth env)\"` for this shell",
        )),
    }
    checks
}

/// Keys, hosts and models of another service that a tool's set-up replaces.
fn set_up_tools(session: &Session) -> Vec<Check> {
    let is_set_up =
        |tool: &&Tool| setup::recorded(&session.config.paths.state, tool.name).is_ok_and(|record| record.is_some());
    let check = |tool: &Tool| {
        let names: Vec<_> = tool.replaced_variables().into_iter().filter(|name| variable(name).is_some()).collect();
        if names.is_empty() {
            return None;
        }
        let what =
            format!("`{}` are set, but not used by {} while qwenauth configures it", names.join("`, `"), tool.title);
        Some(Check::warn("variables", what, format!("`unset {}`", names.join(" "))))
    };
    TOOLS.iter().filter(is_set_up).filter_map(check).collect()
}

/// `QWENAUTH_CA_FILE` adds to the system's certificates, the others replace them.
fn certificates() -> Vec<Check> {
    let mut checks = Vec::new();
    for name in ["QWENAUTH_CA_FILE", tls::CERT_FILE] {
        let Some(path) = variable(name).map(PathBuf::from) else { continue };
        let shown = path.display();
        let unset = format!("create that file, or run `unset {name}`");
        let unreadable = |why: String| {
            let what = format!("`{name}` names `{shown}`, which cannot be read: {why}");
            Check::fail("certificates", what, unset)
        };
        let check = match read(name, &path) {
            Err(error) => unreadable(error.root_cause().to_string()),
            // It has its content once, which is for the program that it was made for.
            Ok(None) => Check::ok("certificates", format!("`{name}` names the pipe `{shown}`, which was not opened")),
            Ok(Some(Content::Missing)) => unreadable(tls::missing().to_string()),
            Ok(Some(Content::Unfit(why))) => unreadable(why),
            Ok(Some(Content::Bytes(pem))) => match tls::read_pem(&pem) {
                found if found.usable.is_empty() => {
                    let what = format!("`{name}` names `{shown}`, which contains no usable PEM certificate");
                    let file = path_for_sh(&path);
                    let remedy = format!("`openssl x509 -inform der -in {file} -out FILE.pem`, or `unset {name}`");
                    Check::fail("certificates", what, remedy)
                }
                found => {
                    for Broken { line, why } in &found.broken {
                        let what = format!("the certificate at line {line} of `{shown}` (`{name}`) is not used: {why}");
                        checks.push(Check::warn(
                            "certificates",
                            what,
                            "remove that certificate, or download the file again",
                        ));
                    }
                    Check::ok(
                        "certificates",
                        format!("`{name}` names `{shown}` (certificates: {})", found.usable.len()),
                    )
                }
            },
        };
        checks.push(check);
    }
    for directory in variable(tls::CERT_DIR).iter().flat_map(std::env::split_paths) {
        if let Err(error) = std::fs::read_dir(&directory) {
            let what = format!("`SSL_CERT_DIR` names `{}`, which cannot be read: {error}", directory.display());
            checks.push(Check::fail("certificates", what, "create that directory, or run `unset SSL_CERT_DIR`"));
        }
    }
    checks
}

/// The file of a variable; `None`: a pipe.
fn read(name: &str, path: &Path) -> anyhow::Result<Option<Content>> {
    if !files::is_named_pipe(path, Privacy::Open)? {
        return files::read_named(path, Privacy::Open).map(Some);
    }
    Ok((name == tls::CERT_FILE).then(|| Content::Unfit(tls::NOT_A_FILE.to_owned())))
}

/// Only Qwen Code reads `.env` files, so its login would be elsewhere than ours.
fn qwen_home(session: &Session) -> Option<Check> {
    if variable("QWEN_HOME").is_some() {
        return None;
    }
    let home = paths::home(&session.environment).ok()?;
    let files = [home.join(".qwen/.env"), home.join(".env")];
    let set_in = |file: &PathBuf| {
        let Ok(Content::Bytes(bytes)) = files::read(file, Privacy::Open) else { return None };
        let text = String::from_utf8_lossy(&bytes);
        let value = text
            .lines()
            .find_map(|line| line.trim_start().trim_start_matches("export ").trim_start().strip_prefix("QWEN_HOME="))?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    };
    let (file, value) = files.iter().find_map(|file| Some((file, set_in(file)?)))?;
    Some(Check::warn(
        "QWEN_HOME",
        format!(
            "`{}` sets `QWEN_HOME` only for Qwen Code, so Qwen Code uses another login than qwenauth",
            file.display()
        ),
        format!("`export QWEN_HOME={}` in your shell's start-up file", for_sh(&value)),
    ))
}
