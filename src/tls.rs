//! TLS for both HTTP clients: one configuration, and one reader of files of certificates.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
pub(crate) use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::Verifier;

use crate::environment::variable;
use crate::error::{Failed, Failure, note};
use crate::platform::files::{self, Content, Privacy};

/// The number of "no such file", on Windows too.
const ENOENT: i32 = 2;

/// The variables that replace the system's certificates.
pub(crate) const CERT_FILE: &str = "SSL_CERT_FILE";
pub(crate) const CERT_DIR: &str = "SSL_CERT_DIR";

/// Said of a pipe in [`CERT_FILE`].
pub(crate) const NOT_A_FILE: &str = "it is not a regular file";

/// A pipe of `QWENAUTH_CA_FILE`, which has its content once and serves all connections.
static PIPE: Mutex<Option<(PathBuf, Vec<CertificateDer<'static>>)>> = Mutex::new(None);

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// What a PEM file holds.
#[derive(Default)]
pub(crate) struct Certificates {
    pub(crate) usable: Vec<CertificateDer<'static>>,
    pub(crate) broken: Vec<Broken>,
}

/// A certificate that cannot be used.
pub(crate) struct Broken {
    /// Of its first line, from 1.
    pub(crate) line: usize,
    pub(crate) why: String,
}

/// Reads the certificates of a PEM file one by one, so that a broken one costs no other.
pub(crate) fn read_pem(pem: &[u8]) -> Certificates {
    let text = String::from_utf8_lossy(pem);
    let mut found = Certificates::default();
    let mut rest = &*text;
    while let Some(at) = rest.find(BEGIN) {
        let block = &rest[at..];
        let line = text[..text.len() - block.len()].matches('\n').count() + 1;
        let end = block.find(END).map(|end| end + END.len());
        let next = block[BEGIN.len()..].find(BEGIN).map(|next| next + BEGIN.len());
        let end = end.filter(|end| next.is_none_or(|next| *end <= next));
        match end.ok_or_else(|| "its end marker is missing".to_owned()).and_then(|end| parse(&block[..end])) {
            Ok(certificate) => found.usable.push(certificate),
            Err(why) => found.broken.push(Broken { line, why }),
        }
        rest = &block[end.or(next).unwrap_or(block.len())..];
    }
    found
}

fn parse(block: &str) -> Result<CertificateDer<'static>, String> {
    let certificate = CertificateDer::from_pem_slice(block.as_bytes()).map_err(|_| "it is not Base64".to_owned())?;
    match RootCertStore::empty().add(certificate.clone()) {
        Ok(()) => Ok(certificate),
        Err(_) => Err("it is not an X.509 certificate".to_owned()),
    }
}

/// TLS 1.2 and 1.3 with the certificates of the system and of `ca_file`, the file of `QWENAUTH_CA_FILE`.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig> {
    check_cert_file()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let extra = ca_file.map(extra_certificates).transpose()?.unwrap_or_default();
    // Windows builds another chain engine for certificates of our own.
    let verifier = if extra.is_empty() {
        Verifier::new(Arc::clone(&provider))
    } else {
        Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
    };
    let verifier = verifier.map_err(|error| cannot_verify(&error))?;
    Ok(versions(provider)?.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// What stands for [`client_config`] where no connection is encrypted: it trusts no server.
pub(crate) fn without_certificates() -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(versions(provider)?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn versions(provider: Arc<CryptoProvider>) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().context("cannot set up TLS")
}

/// The verifier opens this file by itself, and would wait for a pipe at every connection.
fn check_cert_file() -> Result<()> {
    let Some(path) = variable(CERT_FILE).map(PathBuf::from) else { return Ok(()) };
    let what = || format!("cannot use the certificates of `{CERT_FILE}`, `{}`", path.display());
    if files::is_named_pipe(&path, Privacy::Open).with_context(what)? {
        return Failed::new(Failure::Other, format!("{}: {NOT_A_FILE}", what()))
            .hint("set it to a regular file; only `QWENAUTH_CA_FILE` may be a pipe")
            .err();
    }
    Ok(())
}

/// The certificates of the system, or `QWENAUTH_CA_FILE` beside them, cannot be used.
fn cannot_verify(error: &rustls::Error) -> Failed {
    let says = error.to_string();
    // rustls-platform-verifier, where the system keeps them in files.
    if says.contains("No CA certificates") {
        return no_certificates();
    }
    Failed::new(Failure::Other, format!("cannot set up TLS: {says}"))
}

fn no_certificates() -> Failed {
    let set: Vec<String> = [CERT_FILE, CERT_DIR]
        .iter()
        .filter_map(|name| Some(format!("`{name}` names `{}`", variable(name)?.to_string_lossy())))
        .collect();
    let place = if set.is_empty() { "on this system".to_owned() } else { format!("({})", set.join(", ")) };
    Failed::new(Failure::Other, format!("cannot set up TLS: no CA certificates were found {place}"))
        .hint("install `ca-certificates`, or name a file in `QWENAUTH_CA_FILE`")
}

fn extra_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return certificates(path);
    }
    // Held while it is read: connections are made side by side.
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, found)) = &*pipe
        && known == path
    {
        return Ok(found.clone());
    }
    let found = certificates(path)?;
    *pipe = Some((path.to_owned(), found.clone()));
    Ok(found)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let what = format!("cannot use the certificates of `QWENAUTH_CA_FILE`, `{shown}`");
    let failed = |what: String| Failed::new(Failure::Other, what).hint("set it to a readable PEM file");
    let pem = match files::read_named(path, Privacy::Open).with_context(|| what.clone())? {
        Content::Bytes(pem) => pem,
        Content::Missing => return Err(missing()).with_context(|| failed(what)),
        Content::Unfit(why) => return failed(format!("{what}: {why}")).err(),
    };
    usable(&pem, path).map_or_else(|| failed(what).err(), Ok)
}

/// How the system says that there is no such file.
pub(crate) fn missing() -> io::Error {
    io::Error::from_raw_os_error(ENOENT)
}

/// The certificates of a PEM file; those that are broken are named.
fn usable(pem: &[u8], path: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let found = read_pem(pem);
    if found.usable.is_empty() {
        return None;
    }
    for Broken { line, why } in &found.broken {
        note(&format!("warning: the certificate at line {line} of `{shown}` is not used: {why}"));
    }
    Some(found.usable)
}

/// A server's certificate that was rejected: why, and what helps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rejected {
    pub(crate) why: &'static str,
    pub(crate) remedy: &'static str,
}

impl Rejected {
    /// `None`: something else failed.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        use CertificateError as Why;
        let rejected = |why, remedy| Some(Self { why, remedy });
        match certificate_error(error)? {
            Why::Expired | Why::ExpiredContext { .. } => rejected(
                "its certificate has expired",
                "check the clock of this machine; if it is right, ask the server's operator for a new certificate",
            ),
            Why::NotValidYet | Why::NotValidYetContext { .. } => {
                rejected("its certificate is not valid yet", "check the clock of this machine")
            }
            Why::NotValidForName | Why::NotValidForNameContext { .. } => {
                rejected("its certificate is for another name", "use the name that is in the certificate")
            }
            Why::Revoked => rejected("its certificate was revoked", "ask the server's operator for a new certificate"),
            Why::UnknownIssuer => rejected(
                "its certificate is not trusted",
                "if you trust the authority that issued it, set `QWENAUTH_CA_FILE` to that authority's PEM file",
            ),
            _ => rejected(
                "its certificate is invalid",
                "give the server a certificate with `CA:FALSE`, and set `QWENAUTH_CA_FILE` to its authority's PEM file",
            ),
        }
    }
}

/// An I/O error does not count what it wraps among its sources.
fn certificate_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
        return Some(why);
    }
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let wrapped = wrapped.and_then(|wrapped| certificate_error(wrapped));
    wrapped.or_else(|| certificate_error(error.source()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_certificate_is_found_in_whatever_reports_it() {
        for (why, said) in [
            (CertificateError::UnknownIssuer, "its certificate is not trusted"),
            (CertificateError::Expired, "its certificate has expired"),
            (CertificateError::NotValidYet, "its certificate is not valid yet"),
            (CertificateError::NotValidForName, "its certificate is for another name"),
            (CertificateError::Revoked, "its certificate was revoked"),
            (CertificateError::BadEncoding, "its certificate is invalid"),
        ] {
            let error = rustls::Error::InvalidCertificate(why);
            let wrapped = anyhow::Error::from(io::Error::other(io::Error::other(error))).context("connecting");
            assert_eq!(Rejected::of(wrapped.as_ref()).map(|rejected| rejected.why), Some(said));
        }
        assert!(Rejected::of(&rustls::Error::DecryptError).is_none());
        assert!(Rejected::of(&io::Error::from(io::ErrorKind::ConnectionReset)).is_none());
    }

    #[test]
    fn a_broken_certificate_is_named_by_its_line_and_costs_no_other() {
        let good = include_str!("../tests/cli/ca.pem");
        let pem = format!(
            "# a comment\n{BEGIN}\n!!!!\n{END}\n{good}\n{BEGIN}\nAAAA\n{END}\r\nnoise {BEGIN}\nMIIB\n{good}{BEGIN}\nAAAA"
        );
        let found = read_pem(pem.as_bytes());
        assert_eq!(found.usable.len(), 2);
        let broken: Vec<(usize, &str)> = found.broken.iter().map(|broken| (broken.line, broken.why.as_str())).collect();
        let after = 5 + good.lines().count();
        assert_eq!(
            broken,
            [
                (2, "it is not Base64"),
                (after + 1, "it is not an X.509 certificate"),
                (after + 4, "its end marker is missing"),
                (after + 6 + good.lines().count(), "its end marker is missing"),
            ]
        );
        for none in [&b""[..], b"text", &[0xff, 0x30]] {
            assert!(read_pem(none).usable.is_empty() && read_pem(none).broken.is_empty());
        }
    }
}
