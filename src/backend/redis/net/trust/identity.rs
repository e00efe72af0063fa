//! Who this client says it is: its certificate, as it lies in the file, and the key that goes with it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::der::{Certificate, Der, INTEGER, Kind, OCTET_STRING, OID, PublicKey};
use super::encrypted::{self, Closed};
use super::files::Look;
use super::pem::Section;
use super::{Fingerprint, Unusable, bad, p521, pem_file, rsa_pss};
use crate::config::{Secret, TlsOptions};

thread_local! {
    static WAS_ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a server has asked for this client's certificate in what this thread has read since it asked last.
pub fn was_asked() -> bool {
    WAS_ASKED.replace(false)
}

/// Shows a certificate, or none, and notes that it was asked for.
#[derive(Debug)]
pub struct Shown(pub Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        WAS_ASKED.set(true);
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

pub struct Identity {
    pub certified: Arc<CertifiedKey>,
    pub fingerprint: Fingerprint,
}

/// The files that it lies in; as in OpenSSL, the key may lie in the certificate's.
fn files(options: &TlsOptions) -> Option<(&PathBuf, &PathBuf)> {
    let certfile = options.certfile.as_ref()?;
    Some((certfile, options.keyfile.as_ref().unwrap_or(certfile)))
}

pub fn look(options: &TlsOptions) -> Look {
    match files(options) {
        None => Look::default(),
        Some((certfile, keyfile)) => Look::at(&[certfile.clone(), keyfile.clone()], &[], false),
    }
}

/// `None`: the options name none.
pub fn read(options: &TlsOptions) -> Result<Option<Identity>, Unusable> {
    let Some((certfile, keyfile)) = files(options) else { return Ok(None) };
    let sections = pem_file(certfile)?;
    let chain: Vec<_> = sections.iter().filter_map(super::certificate).collect();
    let first = chain
        .first()
        .and_then(|first| Certificate::read(first))
        .ok_or_else(|| bad(format!("no certificate that can be used in {}", certfile.display())))?;
    let key = match keyfile == certfile {
        true => private_key(keyfile, &sections, options.key_password.as_ref())?,
        false => private_key(keyfile, &pem_file(keyfile)?, options.key_password.as_ref())?,
    };
    if first.key.bits != key.public {
        return Err(bad(format!(
            "{} does not go with {}: it is another certificate's key",
            keyfile.display(),
            certfile.display()
        )));
    }
    let mut fingerprint = Context::new(&SHA256);
    chain.iter().for_each(|certificate| fingerprint.update(certificate));
    let fingerprint = Fingerprint::of(fingerprint);
    // Past the check of rustls, which takes no certificate of version 1.
    let certified = Arc::new(CertifiedKey::new(chain, key.signing));
    Ok(Some(Identity { certified, fingerprint }))
}

struct Key {
    signing: Arc<dyn SigningKey>,
    /// As it stands in a certificate.
    public: Vec<u8>,
}

/// The first private key of a file, whatever else is there.
fn private_key(
    path: &Path,
    sections: &[Section],
    password: Option<&Secret>,
) -> Result<Key, Unusable> {
    let path = path.display();
    let is_key = |section: &&Section| section.label.ends_with("PRIVATE KEY");
    let section =
        sections.iter().find(is_key).ok_or_else(|| bad(format!("no private key in {path}")))?;
    let is_encrypted = section.label == "ENCRYPTED PRIVATE KEY" || section.encryption.is_some();
    let opened = match (password, &section.encryption) {
        _ if !is_encrypted => Ok(section.der.clone()),
        (None, _) => {
            return Err(bad(format!(
                "the private key in {path} is encrypted: ssl_password is needed to open it"
            )));
        }
        (Some(Secret(password)), None) => encrypted::open_pkcs8(&section.der, password),
        (Some(Secret(password)), Some(how)) => encrypted::open_older(how, &section.der, password),
    };
    let der = opened.map_err(|closed| {
        bad(match closed {
            Closed::WrongPassword => format!("ssl_password does not open the private key in {path}"),
            Closed::Broken => format!("the private key in {path} is encrypted, and broken"),
            Closed::Unsupported(how) => format!(
                "the private key in {path} is encrypted in a way that this library does not open ({how}); \
                 `openssl pkcs8 -topk8 -v2 aes-256-cbc` encrypts it in one that it does"
            ),
        })
    })?;
    let der = match section.label.as_str() {
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(der.into()),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(der.into()),
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => {
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der))
        }
        other => {
            let kind = other.trim_end_matches("PRIVATE KEY").trim();
            return Err(bad(format!(
                "the private key in {path} is of a kind that is not supported: {kind}"
            )));
        }
    };
    let kind = kind(&der);
    let key = match &kind {
        Some((Kind::P521, inner)) => p521_key(inner),
        Some((Kind::RsaPss(_), inner)) => {
            rsa_pss::Key::new(inner).map(|(key, public)| Key { signing: Arc::new(key), public })
        }
        _ => usual_key(&der),
    };
    key.ok_or_else(|| {
        bad(match kind {
            Some((kind @ (Kind::P256 | Kind::P384 | Kind::P521 | Kind::Ed25519), _)) => {
                format!("the private key in {path} ({kind}) cannot be read, or its public half is not in it")
            }
            Some((kind, _)) => format!(
                "the private key in {path} is of a kind that cannot be used here: {kind} (usable are RSA of 2048 to \
                 4096 bits, P-256, P-384, P-521, Ed25519)"
            ),
            None => format!("the private key in {path} cannot be read"),
        })
    })
}

fn usual_key(der: &PrivateKeyDer<'_>) -> Option<Key> {
    let signing = any_supported_type(der).ok()?;
    let public = PublicKey::read(&signing.public_key()?)?.bits.to_vec();
    Some(Key { signing, public })
}

/// `der`: an ECPrivateKey (RFC 5915).
fn p521_key(der: &[u8]) -> Option<Key> {
    let mut parts = Der::new(der).sequence()?;
    parts.expect(INTEGER)?;
    let (key, public) = p521::Key::new(parts.expect(OCTET_STRING)?)?;
    Some(Key { signing: Arc::new(key), public })
}

/// Of which kind a key is, and what is in its PKCS#8, if it is in one.
fn kind<'a>(der: &'a PrivateKeyDer<'_>) -> Option<(Kind, &'a [u8])> {
    /// The field of an ECPrivateKey that names the curve: `[0]`.
    const PARAMETERS: u8 = 0xa0;
    let rsa_bits = |der: &[u8]| {
        let mut parts = Der::new(der).sequence()?;
        parts.expect(INTEGER)?;
        let modulus = parts.expect(INTEGER)?;
        let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
        Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
    };
    match der {
        PrivateKeyDer::Pkcs1(der) => {
            let der = der.secret_pkcs1_der();
            Some((Kind::Rsa(rsa_bits(der)?), der))
        }
        PrivateKeyDer::Sec1(der) => {
            let der = der.secret_sec1_der();
            let mut parts = Der::new(der).sequence()?;
            parts.expect(INTEGER)?;
            parts.expect(OCTET_STRING)?;
            let curve = Der::new(parts.optional(PARAMETERS)?).expect(OID)?;
            Some((Kind::of_curve(curve), der))
        }
        PrivateKeyDer::Pkcs8(der) => {
            let mut parts = Der::new(der.secret_pkcs8_der()).sequence()?;
            parts.expect(INTEGER)?;
            let algorithm = parts.sequence()?;
            let inner = parts.expect(OCTET_STRING)?;
            Some((Kind::of(algorithm, || rsa_bits(inner)), inner))
        }
        _ => None,
    }
}
