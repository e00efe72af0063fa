//! P-521, which ring does not have: signatures and their verification for rustls, and the exchange of keys, for TLS 1.2
//! lets a server use such a certificate only with a client that has the curve.

use ecdsa::hazmat::{sign_prehashed, verify_prehashed};
use p521::ecdsa::Signature;
use p521::elliptic_curve::sec1::ToSec1Point;
use p521::{NistP521, NonZeroScalar, PublicKey, SecretKey};
use ring::digest::{self, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, NamedGroup, PeerMisbehaved, SignatureAlgorithm, SignatureScheme};

/// The length of a number of the curve.
const LEN: usize = 66;

struct Verification {
    signature: AlgorithmIdentifier,
    hash: &'static digest::Algorithm,
}

pub static SHA256: &dyn SignatureVerificationAlgorithm =
    &Verification { signature: alg_id::ECDSA_SHA256, hash: &digest::SHA256 };
pub static SHA384: &dyn SignatureVerificationAlgorithm =
    &Verification { signature: alg_id::ECDSA_SHA384, hash: &digest::SHA384 };
pub static SHA512: &dyn SignatureVerificationAlgorithm =
    &Verification { signature: alg_id::ECDSA_SHA512, hash: &digest::SHA512 };

impl std::fmt::Debug for Verification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("P-521")
    }
}

impl SignatureVerificationAlgorithm for Verification {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = PublicKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        let hash = digest(self.hash, message);
        verify_prehashed::<NistP521>(&key.to_projective(), hash.as_ref(), &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

/// A private key.
#[derive(Clone)]
pub struct Key(NonZeroScalar);

impl Key {
    /// `bytes`: its number. With it the public key, as in a certificate.
    pub fn new(bytes: &[u8]) -> Option<(Self, Vec<u8>)> {
        let key = SecretKey::from_slice(bytes).ok()?;
        let public = key.public_key().to_sec1_point(false).as_bytes().to_vec();
        Some((Self(key.to_nonzero_scalar()), public))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("P-521")
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let is_offered = offered.contains(&SignatureScheme::ECDSA_NISTP521_SHA512);
        is_offered.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let hash = digest(&digest::SHA512, message);
        let failed = |_| Error::General("cannot sign with a P-521 key".into());
        let once = random_scalar()?;
        let (signature, _) =
            sign_prehashed::<NistP521>(&self.0, &once, hash.as_ref()).map_err(failed)?;
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}

/// Evenly distributed: what lies outside the curve's order is drawn again, which is very rare.
fn random_secret() -> Result<SecretKey, Error> {
    loop {
        let mut bytes = [0; LEN];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::FailedToGetRandomBytes)?;
        bytes[0] &= 1;
        if let Ok(secret) = SecretKey::from_slice(&bytes) {
            return Ok(secret);
        }
    }
}

fn random_scalar() -> Result<NonZeroScalar, Error> {
    random_secret().map(|secret| secret.to_nonzero_scalar())
}

/// Elliptic-curve Diffie-Hellman.
#[derive(Debug)]
struct Group;

pub static GROUP: &dyn SupportedKxGroup = &Group;

struct Exchange {
    secret: SecretKey,
    public: Vec<u8>,
}

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = random_secret()?;
        let public = secret.public_key().to_sec1_point(false).as_bytes().to_vec();
        Ok(Box::new(Exchange { secret, public }))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        const UNCOMPRESSED: u8 = 4;
        let bad = || Error::from(PeerMisbehaved::InvalidKeyShare);
        if peer.first() != Some(&UNCOMPRESSED) {
            return Err(bad());
        }
        let peer = PublicKey::from_sec1_bytes(peer).map_err(|_| bad())?;
        let scalar = self.secret.to_nonzero_scalar();
        let point = peer.to_projective() * *scalar;
        let shared = point.to_affine().to_sec1_point(false);
        let x = shared.x().ok_or_else(bad)?;
        Ok(SharedSecret::from(x.as_slice()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_verified_and_nothing_else() {
        let secret = random_secret().unwrap();
        let (key, public) = Key::new(&secret.to_bytes()).unwrap();
        let signature = key.sign(b"message").unwrap();
        assert!(SHA512.verify_signature(&public, b"message", &signature).is_ok());
        assert!(SHA512.verify_signature(&public, b"massage", &signature).is_err());
        assert!(SHA256.verify_signature(&public, b"message", &signature).is_err());
        assert!(SHA512.verify_signature(&public[1..], b"message", &signature).is_err());
        assert!(SHA512.verify_signature(&public, b"message", &signature[1..]).is_err());
    }

    #[test]
    fn both_sides_come_to_the_same_secret() {
        let (ours, theirs) = (GROUP.start().unwrap(), GROUP.start().unwrap());
        let (our_share, their_share) = (ours.pub_key().to_vec(), theirs.pub_key().to_vec());
        let ours = ours.complete(&their_share).unwrap();
        let theirs = theirs.complete(&our_share).unwrap();
        assert_eq!(ours.secret_bytes(), theirs.secret_bytes());
        assert_eq!(ours.secret_bytes().len(), LEN);
        for bad in [&[][..], &[4; 133], &our_share[1..]] {
            assert!(GROUP.start().unwrap().complete(bad).is_err());
        }
    }
}
