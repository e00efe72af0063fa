//! Whether a server is who it should be. What cannot be verified is named.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, SignatureScheme,
};
use webpki::{RawPublicKeyEntity, ring as algorithms};

use super::der::{Certificate, Der, Kind, PublicKey, signature_name};
use super::roots::Roots;
use super::{p521, rsa_pss};

type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

/// What rustls has with ring, and P-521 and keys for nothing but RSA-PSS.
static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        algorithms::ECDSA_P256_SHA256,
        algorithms::ECDSA_P256_SHA384,
        algorithms::ECDSA_P384_SHA256,
        algorithms::ECDSA_P384_SHA384,
        p521::SHA256,
        p521::SHA384,
        p521::SHA512,
        algorithms::ED25519,
        algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        rsa_pss::WITH_SHA256,
        rsa_pss::WITH_SHA384,
        rsa_pss::WITH_SHA512,
        rsa_pss::ONLY_SHA256,
        rsa_pss::ONLY_SHA384,
        rsa_pss::ONLY_SHA512,
        algorithms::RSA_PKCS1_2048_8192_SHA256,
        algorithms::RSA_PKCS1_2048_8192_SHA384,
        algorithms::RSA_PKCS1_2048_8192_SHA512,
        algorithms::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
        algorithms::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
        algorithms::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    ],
    // In the order in which a server is asked for them. The first of each is the one of TLS 1.3.
    mapping: &[
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[algorithms::ECDSA_P384_SHA384, algorithms::ECDSA_P256_SHA384, p521::SHA384],
        ),
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[algorithms::ECDSA_P256_SHA256, algorithms::ECDSA_P384_SHA256, p521::SHA256],
        ),
        (SignatureScheme::ED25519, &[algorithms::ED25519]),
        (SignatureScheme::RSA_PSS_SHA512, &[algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA384, &[algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA256, &[algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[algorithms::RSA_PKCS1_2048_8192_SHA512]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[algorithms::RSA_PKCS1_2048_8192_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[algorithms::RSA_PKCS1_2048_8192_SHA256]),
        (SignatureScheme::ECDSA_NISTP521_SHA512, &[p521::SHA512]),
        (rsa_pss::SHA256, &[rsa_pss::WITH_SHA256, rsa_pss::ONLY_SHA256]),
        (rsa_pss::SHA384, &[rsa_pss::WITH_SHA384, rsa_pss::ONLY_SHA384]),
        (rsa_pss::SHA512, &[rsa_pss::WITH_SHA512, rsa_pss::ONLY_SHA512]),
    ],
};

/// ring's cryptography, and what it lacks.
pub fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.signature_verification_algorithms = ALGORITHMS;
    provider.kx_groups.push(p521::GROUP);
    provider
}

fn algorithms_of(scheme: SignatureScheme) -> Option<Algorithms> {
    let mapping = ALGORITHMS.mapping.iter();
    mapping.into_iter().find(|(known, _)| *known == scheme).map(|(_, algorithms)| *algorithms)
}

/// Why a certificate is refused, in words of this library's that follow on "the server's certificate".
#[derive(Debug)]
pub struct Reason(pub String);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}

fn refused(reason: impl Into<String>) -> Error {
    let reason = Arc::new(Reason(reason.into()));
    Error::InvalidCertificate(CertificateError::Other(OtherError(reason)))
}

/// What webpki said, where rustls has no word of its own for it.
fn webpki_error(error: &Error) -> Option<&webpki::Error> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// What TLS 1.3 has no more, though it may be among what was offered, for TLS 1.2.
fn is_for_certificates_only(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Tls12,
    Tls13,
}

/// Verifies what the server signed in the handshake. `Ok(false)`: it is signed in a way that is not known here.
fn verify_signature(
    version: Version,
    message: &[u8],
    certificate: &Certificate<'_>,
    signed: &DigitallySignedStruct,
) -> Result<bool, Error> {
    let Some(algorithms) = algorithms_of(signed.scheme) else { return Ok(false) };
    if version == Version::Tls13 && is_for_certificates_only(signed.scheme) {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    let spki = SubjectPublicKeyInfoDer::from(certificate.spki);
    let key = RawPublicKeyEntity::try_from(&spki)
        .map_err(|_| Error::from(CertificateError::BadEncoding))?;
    // In TLS 1.3 the scheme names the curve.
    let is_ecdsa = matches!(certificate.key.kind(), Kind::P256 | Kind::P384 | Kind::P521);
    let count = if version == Version::Tls13 && is_ecdsa { 1 } else { algorithms.len() };
    for algorithm in &algorithms[..count] {
        match key.verify_signature(*algorithm, message, signed.signature()) {
            Ok(()) => return Ok(true),
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => return Err(CertificateError::BadSignature.into()),
        }
    }
    Ok(false)
}

fn read(certificate: &[u8]) -> Result<Certificate<'_>, Error> {
    Certificate::read(certificate).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// Verifies the chain and, unless told otherwise, the name.
#[derive(Debug)]
pub struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    check_name: bool,
    roots: Arc<Roots>,
}

impl Verifier {
    pub fn new(
        roots: &Arc<Roots>,
        check_name: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let store = Arc::clone(&roots.store);
        let webpki = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(provider))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { webpki, check_name, roots: Arc::clone(roots) })
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.webpki.verify_server_cert(end_entity, intermediates, name, &[], now);
        let verdict = match verdict {
            // webpki takes no authority's certificate as a server's own. It finds that after it has checked the dates.
            Err(error)
                if matches!(webpki_error(&error), Some(webpki::Error::CaUsedAsEndEntity))
                    && self.roots.pinned.iter().any(|trusted| trusted == end_entity) =>
            {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, name)
                    .map(|()| ServerCertVerified::assertion())
            }
            verdict => verdict,
        };
        match verdict {
            // The name is looked at last, when the chain has been found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    /// Says what is missing, where it is this library's to say.
    fn explain(
        &self,
        end_entity: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        error: Error,
    ) -> Error {
        match webpki_error(&error) {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                return refused("is an authority's (CA), or self-signed, and not trusted");
            }
            Some(webpki::Error::UnsupportedCertVersion) => {
                return refused(match end_entity.version {
                    version @ 1..=2 => format!(
                        "is of X.509 version {version}, which names no host, so it cannot be verified: one of \
                         version 3 with a subjectAltName is needed (or ssl_cert_reqs=none, which verifies nothing)"
                    ),
                    _ => "was issued by one of X.509 version 1 that is not itself trusted".into(),
                });
            }
            _ => {}
        }
        let Error::InvalidCertificate(problem) = &error else { return error };
        let by = match problem {
            CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id,
                ..
            }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id,
                ..
            } => Some(signature_algorithm_id),
            CertificateError::BadSignature | CertificateError::UnknownIssuer => None,
            _ => return error,
        };
        if let Some(kind) = self.unverifiable_issuer(end_entity, intermediates) {
            return refused(format!(
                "was issued by an authority (CA) whose key is of a kind that cannot be verified here: {kind}"
            ));
        }
        match by {
            Some(algorithm) => refused(format!(
                "is signed in a way that cannot be verified here: {}",
                signature_name(algorithm)
            )),
            None => error,
        }
    }

    /// The kind of key of an authority that may have issued one of these, if it is one that is of no use here.
    fn unverifiable_issuer(
        &self,
        end_entity: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Kind> {
        let sent: Vec<_> = intermediates.iter().filter_map(|der| Certificate::read(der)).collect();
        let issued = || sent.iter().chain([end_entity]);
        let trusted = self.roots.store.roots.iter().filter_map(|root| {
            let key = PublicKey::of_parts(Der::new(root.subject_public_key_info.as_ref()))?;
            issued().any(|one| one.issuer == root.subject.as_ref()).then(|| key.kind())
        });
        let sent = sent.iter().filter(|by| issued().any(|one| one.issuer == by.subject));
        let mut kinds = trusted.chain(sent.map(|by| by.key.kind()));
        kinds.find(|kind| !kind.is_verifiable())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = read(end_entity)?;
        let verified = self
            .verify_chain(end_entity, intermediates, server_name, now)
            .map_err(|error| self.explain(&certificate, intermediates, error))?;
        match certificate.key.kind() {
            kind if kind.is_verifiable() => Ok(verified),
            kind => Err(unverifiable(&kind)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        must_be_signed(Version::Tls12, message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        must_be_signed(Version::Tls13, message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

fn unverifiable(kind: &Kind) -> Error {
    refused(format!("has a key of a kind that cannot be verified here: {kind}"))
}

fn must_be_signed(
    version: Version,
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = read(certificate)?;
    match verify_signature(version, message, &certificate, signed)? {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(unverifiable(&certificate.key.kind())),
    }
}

/// `ssl_cert_reqs=none`: any certificate will do. The handshake is signed all the same, and where that can be verified
/// it is, which tells of a server with another certificate's key.
#[derive(Debug)]
pub struct TrustAnything;

fn may_be_signed(
    version: Version,
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = read(certificate)?;
    if certificate.key.kind().is_verifiable() {
        verify_signature(version, message, &certificate, signed)?;
    }
    Ok(HandshakeSignatureValid::assertion())
}

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        may_be_signed(Version::Tls12, message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        may_be_signed(Version::Tls13, message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        // Brainpool's of TLS 1.3 (RFC 8734) and what is old come last: a key may fit nothing else.
        const UNVERIFIED: [SignatureScheme; 6] = [
            SignatureScheme::ED448,
            SignatureScheme::Unknown(0x081a),
            SignatureScheme::Unknown(0x081b),
            SignatureScheme::Unknown(0x081c),
            SignatureScheme::RSA_PKCS1_SHA1,
            SignatureScheme::ECDSA_SHA1_Legacy,
        ];
        [ALGORITHMS.supported_schemes(), UNVERIFIED.to_vec()].concat()
    }
}
