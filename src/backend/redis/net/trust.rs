//! What a TLS client trusts, and what it shows: read from the files that the options name.

use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::config::TlsOptions;
use crate::deadline::Deadline;
use crate::error::is_scarcity;
use crate::{reserve, threads};

/// More than the certificates take that systems trust.
const MATERIAL: usize = 2 << 20;

/// Why there is no configuration.
#[derive(Clone, Debug)]
pub enum Unusable {
    /// What the options name cannot be used; the text names the file.
    Bad(String),
    /// A descriptor, memory or a thread could not be had.
    Scarce(String),
    /// The files could not be read in time.
    Timeout,
}

/// The configuration of a cache's TLS sessions, made with its first connection: reading the trusted certificates takes
/// milliseconds, and may hang with the file system. So it is done on a thread of its own, which callers wait for no
/// longer than they can.
pub struct Trust {
    options: TlsOptions,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Unread,
    Reading,
    Ready(Arc<ClientConfig>),
    /// For those who waited; the next call tries again, for the files may have been mended.
    Failed(Unusable),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, result: Result<ClientConfig, Unusable>) {
        *self.state() = match result {
            Ok(config) => State::Ready(Arc::new(config)),
            Err(unusable) => State::Failed(unusable),
        };
        self.changed.notify_all();
    }
}

impl Trust {
    pub fn new(options: &TlsOptions) -> Self {
        Self { options: options.clone(), shared: Arc::default() }
    }

    pub fn config(&self, deadline: &Deadline) -> Result<Arc<ClientConfig>, Unusable> {
        let mut state = self.shared.state();
        if let State::Unread | State::Failed(_) = *state {
            *state = State::Reading;
            let (shared, options) = (Arc::clone(&self.shared), self.options.clone());
            let started = threads::spawn(c"cachetory-tls", move || {
                let config = panic::catch_unwind(|| client_config(&options));
                shared.settle(config.unwrap_or_else(|_| Err(bad("reading them panicked"))));
            });
            if let Err(error) = started {
                *state = State::Unread;
                return Err(Unusable::Scarce(format!("a thread: {error}")));
            }
        }
        loop {
            match &*state {
                State::Ready(config) => return Ok(Arc::clone(config)),
                State::Failed(unusable) => return Err(unusable.clone()),
                State::Unread | State::Reading => {}
            }
            let left = deadline.remaining();
            if left.is_zero() {
                return Err(Unusable::Timeout);
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn bad(text: impl Into<String>) -> Unusable {
    Unusable::Bad(text.into())
}

fn unread(path: &Path, error: &pem::Error) -> Unusable {
    match error {
        pem::Error::Io(io) if is_scarcity(io) => Unusable::Scarce(io.to_string()),
        error => bad(format!("cannot read {}: {error}", path.display())),
    }
}

fn client_config(options: &TlsOptions) -> Result<ClientConfig, Unusable> {
    // Certificates are full of small pieces that cannot fail.
    reserve::expect(MATERIAL).map_err(|error| Unusable::Scarce(error.to_string()))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?;
    let verifier: Arc<dyn ServerCertVerifier> = if options.verify {
        Arc::new(Verifier::new(options, &provider)?)
    } else {
        Arc::new(TrustAnything(provider.signature_verification_algorithms))
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match &options.certfile {
        None => Ok(builder.with_no_client_auth()),
        Some(certfile) => {
            // As in OpenSSL, the key may lie in the certificate's file.
            let keyfile = options.keyfile.as_ref().unwrap_or(certfile);
            let chain = certificates(certfile)?;
            let key = PrivateKeyDer::from_pem_file(keyfile).map_err(|error| match error {
                pem::Error::NoItemsFound => bad(format!("no private key in {}", keyfile.display())),
                error => unread(keyfile, &error),
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                let (key, chain) = (keyfile.display(), certfile.display());
                bad(format!("{key} does not go with {chain}: {error}"))
            })
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let mut list = read().map_err(|error| unread(path, &error))?;
    list.retain(|certificate| ParsedCertificate::try_from(certificate).is_ok());
    if list.is_empty() {
        return Err(bad(format!("no certificate that can be used in {}", path.display())));
    }
    Ok(list)
}

/// The authorities to trust, and whether they are the caller's own choice.
fn roots(options: &TlsOptions) -> Result<(Vec<CertificateDer<'static>>, bool), Unusable> {
    let mut list = Vec::new();
    if let Some(file) = &options.ca_certs {
        list.extend(certificates(file)?);
    }
    if let Some(folder) = &options.ca_path {
        list.extend(folder_certificates(folder)?);
    }
    if options.ca_certs.is_some() || options.ca_path.is_some() {
        return Ok((list, true));
    }
    // One bad certificate among the system's is no reason to fail.
    let native = rustls_native_certs::load_native_certs();
    if !native.certs.is_empty() {
        return Ok((native.certs, false));
    }
    let scarcity = native.errors.iter().find_map(|error| match &error.kind {
        rustls_native_certs::ErrorKind::Io { inner, .. } if is_scarcity(inner) => {
            Some(Unusable::Scarce(inner.to_string()))
        }
        _ => None,
    });
    Err(scarcity.unwrap_or_else(|| {
        let why = native.errors.first().map_or("none found".to_owned(), ToString::to_string);
        bad(format!("cannot load the platform's trusted certificates: {why}"))
    }))
}

fn folder_certificates(folder: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let failed = |error: io::Error| {
        if is_scarcity(&error) {
            return Unusable::Scarce(error.to_string());
        }
        bad(format!("cannot read {}: {error}", folder.display()))
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    let mut list = Vec::new();
    for path in paths {
        match certificates(&path) {
            Ok(found) => list.extend(found),
            Err(scarce @ Unusable::Scarce(_)) => return Err(scarce),
            // Such folders hold other things too (revocation lists, notes), which OpenSSL passes over.
            Err(_) => {}
        }
    }
    if list.is_empty() {
        return Err(bad(format!("no certificate that can be used in {}", folder.display())));
    }
    Ok(list)
}

/// Verifies the chain and, unless told otherwise, the name.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    check_name: bool,
    /// Certificates that the caller trusts in person: one of them may be the server's own, as with OpenSSL.
    pinned: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Self, Unusable> {
        let (list, own) = roots(options)?;
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(list.iter().cloned());
        if added == 0 {
            return Err(bad("none of the trusted certificates can be used"));
        }
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
                .build()
                .map_err(|error| bad(error.to_string()))?;
        let pinned = if own { list } else { Vec::new() };
        Ok(Self { webpki, check_name: options.check_hostname, pinned })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let verdict = match verdict {
            // webpki takes no authority's certificate as a server's own. It finds that after it has checked the dates.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
                if is_authority(&other)
                    && self.pinned.iter().any(|trusted| trusted == end_entity) =>
            {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)
                    .map(|()| ServerCertVerified::assertion())
            }
            verdict => verdict,
        };
        match verdict {
            // The name is looked at last, when the chain has been found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// `ssl_cert_reqs=none`: any certificate will do. The handshake is still signed.
#[derive(Debug)]
struct TrustAnything(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// webpki's word for an authority's certificate in the place of a server's, for which rustls has none of its own.
pub fn is_authority(error: &rustls::OtherError) -> bool {
    error.to_string().contains("CaUsedAsEndEntity")
}
