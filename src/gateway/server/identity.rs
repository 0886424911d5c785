//! The gateway's own certificate and key, and whose certificates its clients must show.
//!
//! Hazard: certificate and key are replaced in two steps, and a gateway that reads between them, or reads what
//! was written badly, serves nobody.
//! Rule: the files are read as a pair, and only a pair that fits replaces the one in force; one that does not is read
//! again until it stays as it is, and then complained of once. Open connections keep what they began with.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};

use crate::error::{Failed, Failure, note};
use crate::platform::disk::Version;
use crate::platform::files::{self, Content, Privacy};
use crate::platform::threads;
use crate::tls::read_pem;
use crate::x509::Facts;

/// How long before it expires a certificate causes a warning at the start: one of 90 days is renewed a month before.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// The files of a server's identity.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    /// The certificate, with those between it and its CA.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Only clients with a certificate of one of these get in.
    pub(crate) client_ca: Option<PathBuf>,
}

type Versions = [Option<Version>; 3];

impl TlsFiles {
    /// They differ after any change of the file at a path, or of a symlink in it.
    fn versions(&self) -> Versions {
        let version = |path: &Path| Version::of(path).ok();
        [version(&self.certificate), version(&self.key), self.client_ca.as_deref().and_then(version)]
    }
}

/// What was read at one time.
struct Loaded {
    config: Arc<ServerConfig>,
    facts: Option<Facts>,
    versions: Versions,
}

fn warn_of_expiry(files: &TlsFiles, loaded: &Loaded) {
    let shown = files.certificate.display();
    match loaded.facts.as_ref().map(|facts| facts.expires_at.duration_since(SystemTime::now())) {
        Some(Err(_)) => note(&format!("warning: the certificate in `{shown}` has expired")),
        Some(Ok(left)) if left < EXPIRES_SOON => {
            note(&format!("warning: the certificate in `{shown}` expires in {} h", left.as_secs() / 3600));
        }
        _ => {}
    }
}

pub(crate) struct Identity {
    files: TlsFiles,
    loaded: RefCell<Loaded>,
    /// Files that do not fit and may be in the middle of a change, and those that were complained of.
    doubted: Cell<Option<Versions>>,
    rejected: Cell<Option<Versions>>,
    pub(in crate::gateway) failed_reloads: Cell<u64>,
    pub(in crate::gateway) failed_handshakes: Cell<u64>,
}

impl Identity {
    /// Warns of a certificate that has expired or soon will.
    pub(crate) fn load(files: TlsFiles) -> Result<Self> {
        let loaded = load(&files)?;
        warn_of_expiry(&files, &loaded);
        Ok(Self {
            files,
            loaded: RefCell::new(loaded),
            doubted: Cell::new(None),
            rejected: Cell::new(None),
            failed_reloads: Cell::new(0),
            failed_handshakes: Cell::new(0),
        })
    }

    /// The host of the gateway's URL: the certificate's first name.
    pub(crate) fn host(&self) -> Option<String> {
        self.loaded.borrow().facts.as_ref().and_then(Facts::host).map(str::to_owned)
    }

    pub(in crate::gateway) fn expires_at(&self) -> Option<SystemTime> {
        self.loaded.borrow().facts.as_ref().map(|facts| facts.expires_at)
    }

    pub(in crate::gateway) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded.borrow().config)
    }

    /// Reads the files again if they have changed. Called about once a second.
    pub(in crate::gateway) async fn look(&self) {
        let now = self.files.versions();
        if now == self.loaded.borrow().versions || self.rejected.get() == Some(now) {
            return;
        }
        let is_settled = self.doubted.replace(Some(now)) == Some(now);
        self.read(|error| {
            if is_settled {
                self.reject(now, &error);
            }
        })
        .await;
    }

    /// Reads the files again, whether they have changed or not.
    pub(in crate::gateway) async fn reload(&self) {
        let now = self.files.versions();
        self.read(|error| self.reject(now, &error)).await;
    }

    async fn read(&self, failed: impl FnOnce(anyhow::Error)) {
        let files = self.files.clone();
        // The disk may be slow.
        match threads::finished(move || load(&files)).await {
            Ok(loaded) => {
                log::info!("now serving the certificate in `{}`", self.files.certificate.display());
                if loaded.versions != self.loaded.borrow().versions {
                    warn_of_expiry(&self.files, &loaded);
                }
                *self.loaded.borrow_mut() = loaded;
                self.doubted.set(None);
                self.rejected.set(None);
            }
            Err(error) => failed(error),
        }
    }

    fn reject(&self, versions: Versions, error: &anyhow::Error) {
        self.rejected.set(Some(versions));
        self.failed_reloads.set(self.failed_reloads.get() + 1);
        note(&format!("warning: still using the old certificate: {error:#}"));
    }
}

fn load(files: &TlsFiles) -> Result<Loaded> {
    // What changes while it is read is read again.
    let versions = files.versions();
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .context("cannot set up TLS")?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| unusable(path, "its certificate is not a CA certificate"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .with_context(|| unusable(path, "its certificates are not usable"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let facts = chain.first().and_then(|certificate| Facts::of(certificate));
    let mut config = builder.with_single_cert(chain, key).map_err(|error| misfit(files, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), facts, versions })
}

fn misfit(files: &TlsFiles, error: &rustls::Error) -> Failed {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    if *error == rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
        let message = format!("the private key in `{key}` does not match the certificate in `{certificate}`");
        return Failed::new(Failure::Other, message).hint("put the server's own certificate first in the file");
    }
    Failed::new(
        Failure::Other,
        format!("cannot use the certificate in `{certificate}` with the key in `{key}`: {error}"),
    )
}

fn unusable(path: &Path, why: &str) -> Failed {
    Failed::new(Failure::Other, format!("cannot use `{}`: {why}", path.display()))
}

/// All certificates of a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = match files::read(path, Privacy::Open)? {
        Content::Bytes(bytes) => read_pem(&bytes),
        Content::Missing => return unusable(path, "it is missing").err(),
        Content::Unfit(why) => return unusable(path, &why).err(),
    };
    if let Some(broken) = found.broken.first() {
        return unusable(path, &format!("the certificate at line {}: {}", broken.line, broken.why)).err();
    }
    if found.usable.is_empty() {
        return unusable(path, "it contains no certificate").hint("use a PEM file").err();
    }
    Ok(found.usable)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let bytes = match files::read(path, Privacy::Secret)? {
        Content::Bytes(bytes) => bytes,
        Content::Missing => return unusable(path, "it is missing").err(),
        Content::Unfit(why) => return unusable(path, &why).err(),
    };
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if is_encrypted(&bytes) => {
            unusable(path, "its key is encrypted").hint("decrypt it with `openssl pkey -in ENCRYPTED -out PLAIN`").err()
        }
        // What else the parser says could quote the file.
        Err(_) => unusable(path, "it contains no private key").hint("use a PEM file").err(),
    }
}

fn is_encrypted(pem: &[u8]) -> bool {
    let has = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::disk;

    /// Of `gateway.test`, until 2126.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBnzCCAUSgAwIBAgIUZRGpoXGr/CVVHcqBhHUyPydlScAwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMZ2F0ZXdheS50ZXN0MCAXDTI2MTEzMDAzNDQyNFoYDzIxMjYx
MTA2MDM0NDI0WjAXMRUwEwYDVQQDDAxnYXRld2F5LnRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAQ+4wx32R1IJ3nIqyK21w43BvwjdYdJ/C8fcvOhIsYq6ii/
/Jik6pPFiLRshN5rGyXJ1NEJfqNVVUe+tJpBJmQ0o2wwajAdBgNVHQ4EFgQUKBjd
PnPlGN3p3HRO+LnN1gYIAmkwHwYDVR0jBBgwFoAUKBjdPnPlGN3p3HRO+LnN1gYI
AmkwDwYDVR0TAQH/BAUwAwEB/zAXBgNVHREEEDAOggxnYXRld2F5LnRlc3QwCgYI
KoZIzj0EAwIDSQAwRgIhAPxBXgq6QMk/TgYZ50HTLDoldZ6YjhSIcO+fyfG6kriH
AiEAgwR46nG7zd08a+R1BvLNswJlQdGkASUHrAeEmfkTOSw=
-----END CERTIFICATE-----
";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgy1rbMxrMe6L0q5va
NXMgJ3QqYc4gS/Pe5YKz0aSYXUOhRANCAAQ+4wx32R1IJ3nIqyK21w43BvwjdYdJ
/C8fcvOhIsYq6ii//Jik6pPFiLRshN5rGyXJ1NEJfqNVVUe+tJpBJmQ0
-----END PRIVATE KEY-----
";

    fn write(path: &Path, text: &str) {
        let file = disk::create_new(path).or_else(|_| disk::open_to_write(path)).unwrap();
        file.set_len(0).unwrap();
        disk::write_all_at(&file, text.as_bytes(), 0).unwrap();
    }

    #[test]
    fn an_encrypted_key_is_known_by_the_words_of_its_two_forms() {
        for (pem, encrypted) in [
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=", true),
            ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n", true),
            (KEY, false),
            ("", false),
        ] {
            assert_eq!(is_encrypted(pem.as_bytes()), encrypted, "{pem}");
        }
    }

    #[test]
    fn a_pair_that_does_not_fit_is_complained_of_at_the_second_look_and_at_each_hangup() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = TlsFiles { certificate: path("certificate"), key: path("key"), client_ca: None };
        write(&files.certificate, CERTIFICATE);
        write(&files.key, KEY);
        let identity = Identity::load(files.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let look = || {
            runtime.block_on(identity.look());
            identity.failed_reloads.get()
        };
        assert_eq!(look(), 0);
        write(&files.key, "half of a key");
        assert_eq!(look(), 0, "it may be in the middle of a change");
        assert_eq!(look(), 1);
        assert_eq!(look(), 1);
        write(&files.key, "another half");
        assert_eq!((look(), look(), look()), (1, 2, 2));
        runtime.block_on(identity.reload());
        assert_eq!(identity.failed_reloads.get(), 3);
        let before = identity.config();
        write(&files.key, KEY);
        assert_eq!(look(), 3);
        assert!(!Arc::ptr_eq(&before, &identity.config()));
    }
}
