//! Discovery: an issuer's metadata about its endpoints (OpenID Connect Discovery 1.0, RFC 8414).
//!
//! Hazard: metadata that names another issuer, or endpoints elsewhere, sends the tokens of a login there. Rule: the
//! issuer inside must be the one requested (RFC 8414 §3.3), every endpoint is checked like any URL, and only an issuer
//! on the local machine may name endpoints on the local machine.

use anyhow::Result;
use url::Url;

use super::fields::Fields;
use super::{ClientAuth, REQUEST_TIMEOUT};
use crate::error::{Failed, Failure};
use crate::http::{self, Network, Reply, is_loopback};
use crate::secret::quoted;

const CHECK_ISSUER: &str = "check `issuer` in config.toml; nothing was changed";

/// What is kept of an issuer's metadata.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    pub(crate) issuer: String,
    pub(crate) device_authorization_endpoint: Option<Url>,
    pub(crate) token_endpoint: Url,
    pub(crate) revocation_endpoint: Option<Url>,
    pub(crate) client_auth: ClientAuth,
}

/// The metadata of OpenID Connect Discovery 1.0 §3 and RFC 8414 §2, as far as it is used.
pub(crate) struct ServerMetadata {
    issuer: String,
    device_authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    jwks_uri: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Requests the metadata of `issuer`.
///
/// Errors: temporary while it cannot be reached; other if its metadata cannot be used.
pub(crate) fn find(issuer: &str, network: &Network) -> Result<Endpoints> {
    let (url, document) = request(issuer, network)?;
    check(issuer, &url, &document)
}

/// Where `issuer` publishes the keys that it signs with. Such an issuer need not have any other endpoint.
///
/// Errors: as those of [`find`].
pub(crate) fn find_keys(issuer: &str, network: &Network) -> Result<Url> {
    let (url, document) = request(issuer, network)?;
    check_issuer(issuer, &document)?;
    match endpoint(issuer, &url, document.jwks_uri.as_ref(), "jwks_uri")? {
        Some(keys) => Ok(keys),
        None => Err(unusable(issuer, "names no `jwks_uri`").into()),
    }
}

fn request(issuer: &str, network: &Network) -> Result<(Url, ServerMetadata)> {
    let url = http::endpoint(issuer)?;
    let connection = network.connect(&url)?;
    let mut last = None;
    for location in locations(&url) {
        let reply = connection.get(&location, None, &[], REQUEST_TIMEOUT).map_err(|trouble| {
            trouble
                .failed(location.host_str().unwrap_or_default())
                .reworded(|why| format!("cannot read the discovery document of `{issuer}`: {why}"))
                .or_hint(CHECK_ISSUER)
        })?;
        match read(&reply) {
            Ok(document) => return Ok((url, document)),
            Err(error) if last.is_none() => last = Some(error),
            Err(_) => {}
        }
    }
    let why = last.unwrap_or_default();
    Failed::new(Failure::Temporary, format!("`{issuer}` has no discovery document: {why}")).hint(CHECK_ISSUER).err()
}

/// OpenID Connect appends to the issuer's path; RFC 8414 §3.1 inserts before it.
fn locations(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"]
        .into_iter()
        .zip([true, false])
        .map(|(name, appended)| {
            let mut url = issuer.clone();
            url.set_query(None);
            url.set_fragment(None);
            url.set_path(&if appended { format!("{path}{name}") } else { format!("{name}{path}") });
            url
        })
        .collect()
}

pub(crate) fn read(reply: &Reply) -> Result<ServerMetadata, String> {
    let fields = Fields::of(&reply.body).filter(|_| reply.status == 200);
    if let Some(fields) = fields {
        let issuer = fields.string("issuer").ok_or("its response contains no `issuer`")?;
        return Ok(ServerMetadata {
            issuer,
            device_authorization_endpoint: fields.string("device_authorization_endpoint"),
            token_endpoint: fields.string("token_endpoint"),
            revocation_endpoint: fields.string("revocation_endpoint"),
            jwks_uri: fields.string("jwks_uri"),
            token_endpoint_auth_methods_supported: fields.list("token_endpoint_auth_methods_supported"),
        });
    }
    if reply.is_html() {
        return Err(format!("it answered {} with HTML", reply.status));
    }
    if reply.status != 200 {
        return Err(format!("it answered {}", reply.status));
    }
    Err("its response is not a discovery document".to_owned())
}

pub(crate) fn check(issuer: &str, url: &Url, document: &ServerMetadata) -> Result<Endpoints> {
    check_issuer(issuer, document)?;
    let endpoint = |text: &Option<String>, name: &str| endpoint(issuer, url, text.as_ref(), name);
    let Some(token_endpoint) = endpoint(&document.token_endpoint, "token_endpoint")? else {
        return unusable(issuer, "names no `token_endpoint`").err();
    };
    let methods = document.token_endpoint_auth_methods_supported.as_deref();
    let basic = methods.is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic"));
    Ok(Endpoints {
        issuer: issuer.to_owned(),
        device_authorization_endpoint: endpoint(
            &document.device_authorization_endpoint,
            "device_authorization_endpoint",
        )?,
        token_endpoint,
        revocation_endpoint: endpoint(&document.revocation_endpoint, "revocation_endpoint")?,
        client_auth: if basic { ClientAuth::Basic } else { ClientAuth::Post },
    })
}

fn unusable(issuer: &str, why: &str) -> Failed {
    Failed::new(Failure::Other, format!("the discovery document of `{issuer}` {why}"))
}

fn check_issuer(issuer: &str, document: &ServerMetadata) -> Result<()> {
    if document.issuer.trim_end_matches('/') == issuer.trim_end_matches('/') {
        return Ok(());
    }
    unusable(issuer, &format!("names another issuer, `{}`", quoted(&document.issuer, &[])))
        .hint("if you trust that issuer, set `issuer` in config.toml to its URL")
        .err()
}

/// An endpoint of the document of `issuer`, which is at `url`.
fn endpoint(issuer: &str, url: &Url, text: Option<&String>, name: &str) -> Result<Option<Url>> {
    let Some(text) = text else { return Ok(None) };
    let endpoint = http::endpoint(text)?;
    if is_loopback(&endpoint) && !is_loopback(url) {
        return unusable(issuer, &format!("names a `{name}` on this machine")).err();
    }
    Ok(Some(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_document_are_looked_for() {
        let of = |issuer: &str| -> Vec<String> {
            locations(&Url::parse(issuer).unwrap()).into_iter().map(String::from).collect()
        };
        assert_eq!(
            of("https://corp.example/realms/a/"),
            [
                "https://corp.example/realms/a/.well-known/openid-configuration",
                "https://corp.example/.well-known/oauth-authorization-server/realms/a"
            ]
        );
        assert_eq!(
            of("https://corp.example"),
            [
                "https://corp.example/.well-known/openid-configuration",
                "https://corp.example/.well-known/oauth-authorization-server"
            ]
        );
    }
}
