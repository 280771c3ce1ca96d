//! Secrets and certificates in files: who else may read them, and what is in them?

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sluice_model::{ApiTls, TokenSecret};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// The least and the most characters of a token.
const TOKEN_LENGTHS: std::ops::RangeInclusive<usize> = 16..=1_024;
/// Rights of a secret that are too many: to change it, and others' to read it.
const TOO_OPEN: u32 = 0o037;
/// Rights of a list of CAs that are too many: whoever may change it lets anybody in.
const WRITABLE: u32 = 0o002;

/// Why the files of the API cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// One cannot be read.
    #[error("[api] {key}: cannot read {path}: {source}", path = path.display())]
    Read {
        /// The key in the boot config.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others may read or change it.
    #[error("[api] {key}: others may read or change {path} (mode {mode:03o}); run: chmod {right} {path}", path = path.display())]
    Rights {
        /// The key in the boot config.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Its rights.
        mode: u32,
        /// What to give it.
        right: &'static str,
    },
    /// It does not hold what it should.
    #[error("[api] {key}: {path}: {reason}", path = path.display())]
    Content {
        /// The key in the boot config.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The group of the socket.
    #[error("[api] socket_group: there is no group {0:?}; write the name or the number of one")]
    Group(String),
}

fn rights(key: &'static str, path: &Path, too_many: u32, right: &'static str) -> Result<(), AccessError> {
    let found = fs::metadata(path).map_err(read(key, path))?;
    let mode = found.mode() & 0o777;
    if mode & too_many == 0 {
        return Ok(());
    }
    Err(AccessError::Rights { key, path: path.to_owned(), mode, right })
}

fn read(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AccessError {
    move |source| AccessError::Read { key, path: path.to_owned(), source }
}

fn content(key: &'static str, path: &Path) -> impl Fn(String) -> AccessError {
    move |reason| AccessError::Content { key, path: path.to_owned(), reason }
}

/// What a token is compared by: its SHA-256.
pub(super) fn digest(secret: &TokenSecret) -> Result<[u8; 32], AccessError> {
    let path = match secret {
        TokenSecret::Sha256(digest) => return Ok(*digest),
        TokenSecret::File(path) => path,
    };
    let key = "token.file";
    rights(key, path, TOO_OPEN, "600")?;
    let text = fs::read(path).map_err(read(key, path))?;
    let token = text.trim_ascii_end();
    if !TOKEN_LENGTHS.contains(&token.len()) || !token.iter().all(u8::is_ascii_graphic) {
        let (least, most) = TOKEN_LENGTHS.into_inner();
        let reason = format!(
            "a token is {least} to {most} visible ASCII characters; make one with: openssl rand -hex 32"
        );
        return Err(content(key, path)(reason));
    }
    Ok(Sha256::digest(token).into())
}

/// The configuration of TLS: 1.2 and 1.3, certificates on both sides, no resumption, so that each connection shows its
/// certificate anew.
pub(super) fn tls(files: &ApiTls) -> Result<ServerConfig, AccessError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    rights("client_ca", &files.client_ca, WRITABLE, "644")?;
    for certificate in certificates("client_ca", &files.client_ca)? {
        let refused = content("client_ca", &files.client_ca);
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    if let Some(path) = &files.client_crl {
        let lists = all::<CertificateRevocationListDer<'_>>("client_crl", path)?;
        // Only the clients themselves: a CA between has no list, as a rule.
        verifier =
            verifier.with_crls(lists).only_check_end_entity_revocation().allow_unknown_revocation_status();
    }
    let verifier = verifier.build().map_err(|error| match (&error, &files.client_crl) {
        (VerifierBuilderError::InvalidCrl(_), Some(path)) => {
            let told = format!("{error}; it has to be of version 2 (openssl ca: set crlnumber)");
            content("client_crl", path)(told)
        }
        _ => content("client_ca", &files.client_ca)(error.to_string()),
    })?;
    rights("key", &files.key, TOO_OPEN, "600")?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| pem_error("key", &files.key, "a private key", error))?;
    let refused = content("cert", &files.cert);
    let wrong = |error: rustls::Error| refused(error.to_string());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates("cert", &files.cert)?, key)
        .map_err(wrong)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    all(key, path)
}

/// All things of a kind in a PEM file, at least one.
fn all<T: PemObject>(key: &'static str, path: &Path) -> Result<Vec<T>, AccessError> {
    let what = if key == "client_crl" { "a list of revoked certificates" } else { "a certificate" };
    let wrong = |error| pem_error(key, path, what, error);
    let found = T::pem_file_iter(path).map_err(wrong)?.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if found.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn pem_error(key: &'static str, path: &Path, what: &str, error: pem::Error) -> AccessError {
    match error {
        pem::Error::Io(source) => read(key, path)(source),
        pem::Error::NoItemsFound => {
            content(key, path)(format!("there is no {what} in PEM", what = what.trim_start_matches("a ")))
        }
        error => content(key, path)(error.to_string()),
    }
}

/// The number of a group, given by name or number.
pub(crate) fn group(name: &str) -> Result<u32, AccessError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    // group(5)
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| AccessError::Group(name.to_owned()))
}

/// The folder that clients may name files in: there, and nobody else's to change.
pub(super) fn pcap_folder(path: &Path) -> Result<(), AccessError> {
    let key = "pcap_folder";
    let found = fs::metadata(path).map_err(read(key, path))?;
    if !found.is_dir() {
        return Err(content(key, path)("is no folder".to_owned()));
    }
    rights(key, path, WRITABLE, "755")
}
