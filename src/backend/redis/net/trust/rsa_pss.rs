//! Keys that are for RSA-PSS and nothing else (RFC 4055), of which rustls has no schemes.

use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{self, KeyPair, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

/// `rsa_pss_pss_sha256` and so on (RFC 8446, section 4.2.3).
pub const SHA256: SignatureScheme = SignatureScheme::Unknown(0x0809);
pub const SHA384: SignatureScheme = SignatureScheme::Unknown(0x080a);
pub const SHA512: SignatureScheme = SignatureScheme::Unknown(0x080b);

/// Without parameters: a key for any hash.
const ANY_HASH: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(&[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a,
]);

struct Verification {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    by: &'static dyn VerificationAlgorithm,
}

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// For keys without parameters, and for those whose parameters are a signature's.
const fn verification(
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    by: &'static dyn VerificationAlgorithm,
) -> Verification {
    Verification { key, signature, by }
}

pub static WITH_SHA256: Algorithm =
    &verification(ANY_HASH, alg_id::RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256);
pub static WITH_SHA384: Algorithm =
    &verification(ANY_HASH, alg_id::RSA_PSS_SHA384, &signature::RSA_PSS_2048_8192_SHA384);
pub static WITH_SHA512: Algorithm =
    &verification(ANY_HASH, alg_id::RSA_PSS_SHA512, &signature::RSA_PSS_2048_8192_SHA512);
pub static ONLY_SHA256: Algorithm = &verification(
    alg_id::RSA_PSS_SHA256,
    alg_id::RSA_PSS_SHA256,
    &signature::RSA_PSS_2048_8192_SHA256,
);
pub static ONLY_SHA384: Algorithm = &verification(
    alg_id::RSA_PSS_SHA384,
    alg_id::RSA_PSS_SHA384,
    &signature::RSA_PSS_2048_8192_SHA384,
);
pub static ONLY_SHA512: Algorithm = &verification(
    alg_id::RSA_PSS_SHA512,
    alg_id::RSA_PSS_SHA512,
    &signature::RSA_PSS_2048_8192_SHA512,
);

impl std::fmt::Debug for Verification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RSA-PSS")
    }
}

impl SignatureVerificationAlgorithm for Verification {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = UnparsedPublicKey::new(self.by, public_key);
        key.verify(message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

/// A private key.
#[derive(Clone, Debug)]
pub struct Key(Arc<RsaKeyPair>);

impl Key {
    /// `der`: an RSAPrivateKey. With it the public key, as in a certificate.
    pub fn new(der: &[u8]) -> Option<(Self, Vec<u8>)> {
        let key = RsaKeyPair::from_der(der).ok()?;
        let public = key.public_key().as_ref().to_vec();
        Some((Self(Arc::new(key)), public))
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = [SHA256, SHA384, SHA512].into_iter().find(|it| offered.contains(it))?;
        Some(Box::new(Signing { key: self.clone(), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }
}

#[derive(Debug)]
struct Signing {
    key: Key,
    scheme: SignatureScheme,
}

impl Signer for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let Key(key) = &self.key;
        let padding: &dyn signature::RsaEncoding = match self.scheme {
            SHA384 => &signature::RSA_PSS_SHA384,
            SHA512 => &signature::RSA_PSS_SHA512,
            _ => &signature::RSA_PSS_SHA256,
        };
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(padding, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| Error::General("cannot sign with an RSA-PSS key".into()))?;
        Ok(signature)
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
