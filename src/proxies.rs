//! The proxies of the environment, for both HTTP clients.
//!
//! Hazard: every URL parser ends a password at an unencoded `@`, `#`, `/` or `?`: one part of it becomes a host that is
//! looked up, another is sent, and a third is shown. Rule: everything before the last `@` of the raw value is the user
//! info and is encoded before anything parses the value.

use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use url::Url;

use crate::environment::variable_or_empty;
use crate::error::split_user_info;

/// Upper case first: of two that are set, even if empty, the first counts.
pub(crate) const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
pub(crate) const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
pub(crate) const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
pub(crate) const EXCEPT: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The value of a variable. What must be a string counts as not set, for the HTTP clients too.
pub(crate) fn value(name: &str) -> Option<String> {
    variable_or_empty(name)?.into_string().ok()
}

/// The variable of `names` that counts, and its value.
pub(crate) fn first_set(names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, value(name)?)))
}

/// In a CGI program `HTTP_PROXY` is a header that any client can send, so all of these variables are ignored there.
pub(crate) fn is_cgi() -> bool {
    variable_or_empty("REQUEST_METHOD").is_some()
}

/// `value` with its user info as a URL has to have it.
pub(crate) fn encoded(value: &str) -> String {
    let Some((scheme, user_info, host)) = split_user_info(value) else { return value.to_owned() };
    let encode = |text: &str| -> String {
        let bytes = text.as_bytes();
        let is_encoded = |at: usize| bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let byte = |(at, &byte): (usize, &u8)| match byte {
            b'%' if is_encoded(at) => "%".to_owned(),
            _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte) => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        bytes.iter().enumerate().map(byte).collect()
    };
    let user_info = match user_info.split_once(':') {
        Some((user, password)) => format!("{}:{}", encode(user), encode(password)),
        None => encode(user_info),
    };
    format!("{scheme}{user_info}@{host}")
}

/// What `value` means for requests to `url`; `None`: it is not the address of a proxy.
pub(crate) fn intercept(value: &str, url: &Url) -> Option<Intercept> {
    Matcher::builder().all(encoded(value)).build().intercept(&url.as_str().parse().ok()?)
}

/// Decides which proxy a request uses.
pub(crate) fn matcher() -> Matcher {
    by_encoding().unwrap_or_else(Matcher::from_env)
}

/// Decides the same where the clients' own reading of the environment would get it wrong; `None`: no value needs to be
/// encoded.
pub(crate) fn by_encoding() -> Option<Matcher> {
    let [https, http, all] =
        [HTTPS, HTTP, ALL].map(|names| first_set(names).map(|(_, value)| value).unwrap_or_default());
    if is_cgi() || [&https, &http, &all].iter().all(|value| encoded(value) == **value) {
        return None;
    }
    let no = first_set(EXCEPT).map(|(_, value)| value).unwrap_or_default();
    Some(Matcher::builder().https(encoded(&https)).http(encoded(&http)).all(encoded(&all)).no(no).build())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_in_a_password_reaches_the_proxy_and_no_other_place(
            user in "[a-z]{1,8}", password in r"[ -~é]{0,20}", scheme in "(http://|https://|socks5://|socks5h://|)",
        ) {
            // `a://…` without a scheme of its own begins with one.
            prop_assume!(!scheme.is_empty() || !password.starts_with("//"));
            let value = format!("{scheme}{user}:{password}@127.0.0.1:3128");
            let found = intercept(&value, &Url::parse("https://host.example/").unwrap()).unwrap();
            prop_assert_eq!(found.uri().host(), Some("127.0.0.1"));
            prop_assert_eq!(found.uri().port_u16(), Some(3128));
            let sent = if let Some((user, password)) = found.raw_auth() {
                format!("{user}:{password}")
            } else {
                let header = found.basic_auth().unwrap().to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
                String::from_utf8(STANDARD.decode(header).unwrap()).unwrap()
            };
            // What looks encoded already is taken for that, as curl does.
            if !password.contains('%') {
                prop_assert_eq!(sent, format!("{user}:{password}"));
            }
        }
    }
}
