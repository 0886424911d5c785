//! The page on which a person approves or denies a login; plain HTML, no script, nothing from elsewhere.
//!
//! Hazard: the code in the address, the scope and the program's name are untrusted text, and another site may try to
//! submit the form. Rule: all text passes through [`escape`]; a decision counts only from our own origin with the
//! form's own token.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use sha2::{Digest, Sha256};

use super::oauth::{ApprovalState, Form, Login};

const STYLE: &str = include_str!("page.css");

/// The page for a login, in whatever state it is.
pub(super) fn login(login: &Login) -> String {
    let code = escape(&login.user_code);
    match login.approval {
        ApprovalState::Waiting => confirm(login),
        ApprovalState::Approved | ApprovalState::Redeemed => page(
            "Approved",
            &format!(
                "<p class=\"code\">{code}</p>\n<p role=\"status\">The program that showed this code is logged in. You can close this page and go back to your terminal.</p>"
            ),
        ),
        ApprovalState::Denied => page(
            "Denied",
            &format!(
                "<p class=\"code\">{code}</p>\n<p role=\"status\">The login was denied. You can close this page.</p>"
            ),
        ),
    }
}

fn confirm(login: &Login) -> String {
    let code = escape(&login.user_code);
    let agent = if login.agent.is_empty() { "an unnamed program" } else { &login.agent };
    let scope = if login.scope.is_empty() { "no particular scope" } else { &login.scope };
    let body = format!(
        "<p>Is this the code in your terminal?</p>
<p class=\"code\">{code}</p>
<dl>
<div><dt>Program</dt><dd>{agent}</dd></div>
<div><dt>Scope</dt><dd>{scope}</dd></div>
</dl>
<form method=\"post\" action=\"/device\">
<input type=\"hidden\" name=\"user_code\" value=\"{code}\">
<input type=\"hidden\" name=\"form_token\" value=\"{form_token}\">
<button name=\"decision\" value=\"approve\">Approve</button>
<button name=\"decision\" value=\"deny\" class=\"quiet\">Deny</button>
</form>
<p class=\"note\">Approve only if you started this login yourself.</p>",
        agent = escape(agent),
        scope = escape(scope),
        form_token = escape(&login.form_token),
    );
    page("Approve this login?", &body)
}

/// The page to type a code on. `unknown` is a code that matches no login.
pub(super) fn enter_code(unknown: Option<&str>) -> String {
    let alert = unknown.map_or_else(String::new, |code| {
        format!(
            "<p role=\"alert\">There is no pending login with the code <strong>{}</strong>. It may have expired.</p>\n",
            escape(code)
        )
    });
    let body = format!(
        "{alert}<form method=\"get\" action=\"/device\">
<label for=\"user_code\">The code in your terminal</label>
<input id=\"user_code\" name=\"user_code\" required maxlength=\"20\" autocomplete=\"off\" autocapitalize=\"characters\" spellcheck=\"false\" placeholder=\"XXXX-XXXX\" aria-describedby=\"where\">
<button>Continue</button>
</form>
<p class=\"note\" id=\"where\">It has eight letters. <code>qwenauth login</code> shows it.</p>"
    );
    page("Enter the code", &body)
}

/// A key to practice with.
pub(super) fn key(key: &str) -> String {
    page(
        "Practice key",
        &format!("<p class=\"code\">{}</p>\n<p>Paste it where the login asks for a key.</p>", escape(key)),
    )
}

/// A code to paste.
pub(super) fn code(code: &str) -> String {
    page(
        "Your code",
        &format!("<p class=\"code\">{}</p>\n<p>Paste it where the login asks for a code.</p>", escape(code)),
    )
}

pub(super) fn refused(why: &str) -> String {
    page(
        "Not accepted",
        &format!("<p role=\"alert\">{}</p>\n<p><a href=\"/device\">Enter the code</a></p>", escape(why)),
    )
}

/// Handles the decision of a submitted form. `own_origin`: the request names no origin, or ours.
pub(super) fn decide(login: &mut Login, form: &Form, own_origin: bool) -> Result<(), StatusCode> {
    if !own_origin || form.get("form_token") != Some(&login.form_token) {
        return Err(StatusCode::FORBIDDEN);
    }
    let decision = match form.get("decision").map(String::as_str) {
        Some("approve") => ApprovalState::Approved,
        Some("deny") => ApprovalState::Denied,
        _ => return Err(StatusCode::BAD_REQUEST),
    };
    if login.approval == ApprovalState::Waiting {
        login.approval = decision;
    }
    Ok(())
}

/// Only the page's own style and (empty) icon may load, it cannot be framed, and its forms can only be submitted here.
pub(super) fn content_security_policy() -> String {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; img-src data:; style-src 'sha256-{style}'; form-action 'self'; frame-ancestors 'none'; \
         base-uri 'none'"
    )
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta name=\"color-scheme\" content=\"light dark\">
<title>{title} · practice provider</title>
<link rel=\"icon\" href=\"data:,\">
<style>{STYLE}</style>
</head>
<body>
<main>
<p class=\"banner\">Practice provider</p>
<h1>{title}</h1>
{body}
</main>
<footer>Served by <code>qwenauth sandbox</code>. No account, no network.</footer>
</body>
</html>
"
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(escape("<a b=\"c\" d='e'>&amp;"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;amp;");
        assert!(!enter_code(Some("<script>alert(1)</script>")).contains("<script"));
        assert!(!refused("<img src=x>").contains("<img"));
    }

    #[test]
    fn the_policy_allows_the_style_the_page_carries() {
        let carried = enter_code(None);
        let style = carried.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).expect("a style");
        assert!(content_security_policy().contains(&STANDARD.encode(Sha256::digest(style))));
    }
}
