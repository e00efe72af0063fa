//! What this library reads of X.509 and of keys itself: as much as says which kind of key there is, and where.

/// DER elements one behind the other.
#[derive(Clone, Copy)]
pub struct Der<'a>(&'a [u8]);

#[derive(Clone, Copy)]
pub struct Element<'a> {
    pub tag: u8,
    pub contents: &'a [u8],
    /// With its tag and length.
    pub whole: &'a [u8],
}

pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
/// The first field of a certificate that says of which version it is: `[0]`.
const VERSION: u8 = 0xa0;

impl<'a> Der<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    // By itself, or it would be in all that reads DER.
    #[inline(never)]
    pub fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut len = usize::from(first & 0x7f);
        if first & 0x80 != 0 {
            // The length of the length, which is never more than of what a file may have.
            let (bytes, behind) = rest.split_at_checked(len).filter(|_| (1..=4).contains(&len))?;
            len = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            rest = behind;
        }
        let (contents, behind) = rest.split_at_checked(len)?;
        let whole = &self.0[..self.0.len() - behind.len()];
        self.0 = behind;
        Some(Element { tag, contents, whole })
    }

    pub fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any().filter(|element| element.tag == tag).map(|element| element.contents)
    }

    pub fn sequence(&mut self) -> Option<Der<'a>> {
        self.expect(SEQUENCE).map(Der)
    }

    /// The next element if it has this tag, which is then passed over.
    pub fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.expect(tag) } else { None }
    }

    /// A number that is not negative and fits.
    pub fn number(&mut self) -> Option<u32> {
        let bytes = self.expect(INTEGER)?;
        let bytes = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        (bytes.len() <= 4).then(|| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }
}

/// What a certificate of any version says of its key.
#[derive(Clone, Copy)]
pub struct Certificate<'a> {
    /// 1 to 3.
    pub version: u8,
    /// Names, as contents of their sequences.
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
    /// SubjectPublicKeyInfo.
    pub spki: &'a [u8],
    pub key: PublicKey<'a>,
}

/// A public key, as in a SubjectPublicKeyInfo.
#[derive(Clone, Copy)]
pub struct PublicKey<'a> {
    /// What an AlgorithmIdentifier consists of: its kind, and parameters.
    pub algorithm: Der<'a>,
    pub bits: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub fn read(der: &'a [u8]) -> Option<Self> {
        let mut tbs = Der(der).sequence()?.sequence()?;
        let version = match tbs.optional(VERSION) {
            None => 0,
            Some(number) => u8::try_from(Der(number).number()?).ok()?,
        };
        let _serial = tbs.expect(INTEGER)?;
        let _signature = tbs.sequence()?;
        let issuer = tbs.expect(SEQUENCE)?;
        let _validity = tbs.sequence()?;
        let subject = tbs.expect(SEQUENCE)?;
        let spki = tbs.any().filter(|element| element.tag == SEQUENCE)?.whole;
        let version = version.saturating_add(1);
        Some(Self { version, issuer, subject, spki, key: PublicKey::read(spki)? })
    }
}

impl<'a> PublicKey<'a> {
    pub fn read(spki: &'a [u8]) -> Option<Self> {
        Self::of_parts(Der(spki).sequence()?)
    }

    /// As webpki keeps it of an authority: without what is around it.
    pub fn of_parts(mut parts: Der<'a>) -> Option<Self> {
        let algorithm = parts.sequence()?;
        let bits = parts.expect(BIT_STRING)?.strip_prefix(&[0])?;
        Some(Self { algorithm, bits })
    }

    pub fn kind(&self) -> Kind {
        let bits = || {
            let modulus = Der(self.bits).sequence()?.expect(INTEGER)?;
            let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
            Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
        };
        Kind::of(self.algorithm, bits)
    }
}

/// A kind of key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With so many bits.
    Rsa(usize),
    /// The same, for nothing but PSS.
    RsaPss(usize),
    P256,
    P384,
    P521,
    Ed25519,
    /// Another, by its name.
    Other(String),
}

impl Kind {
    /// `rsa_bits`: the length of the modulus if it is an RSA key.
    pub fn of(mut algorithm: Der<'_>, rsa_bits: impl FnOnce() -> Option<usize>) -> Self {
        let Some(oid) = algorithm.expect(OID) else { return Self::Other("unknown".into()) };
        match oid {
            oid::RSA => Self::Rsa(rsa_bits().unwrap_or_default()),
            oid::RSA_PSS => Self::RsaPss(rsa_bits().unwrap_or_default()),
            oid::ED25519 => Self::Ed25519,
            oid::ED448 => Self::Other("Ed448".into()),
            oid::DSA => Self::Other("DSA".into()),
            oid::EC => match algorithm.expect(OID) {
                Some(curve) => Self::of_curve(curve),
                None => Self::Other("ECDSA with a curve without a name".into()),
            },
            other => Self::Other(dotted(other)),
        }
    }

    pub fn of_curve(curve: &[u8]) -> Self {
        match curve {
            oid::P256 => Self::P256,
            oid::P384 => Self::P384,
            oid::P521 => Self::P521,
            oid::P224 => Self::Other("P-224".into()),
            oid::SECP256K1 => Self::Other("secp256k1".into()),
            other if other.starts_with(oid::BRAINPOOL) => Self::Other("Brainpool".into()),
            other => Self::Other(format!("ECDSA with the curve {}", dotted(other))),
        }
    }

    /// Whether signatures of such a key can be verified here.
    pub fn is_verifiable(&self) -> bool {
        match self {
            Self::Rsa(bits) | Self::RsaPss(bits) => (2048..=8192).contains(bits),
            Self::Other(_) => false,
            _ => true,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA of {bits} bits"),
            Self::RsaPss(bits) => write!(f, "RSA-PSS of {bits} bits"),
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::P521 => f.write_str("P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// The name of what a certificate is signed with, where it is one that is not verified here.
pub fn signature_name(algorithm: &[u8]) -> String {
    let Some(oid) = Der(algorithm).expect(OID) else { return "an unknown algorithm".into() };
    match oid {
        oid::RSA_MD5 => "MD5 with RSA".into(),
        oid::RSA_SHA1 => "SHA-1 with RSA".into(),
        oid::ECDSA_SHA1 => "SHA-1 with ECDSA".into(),
        oid::RSA_PSS => "RSA-PSS with unusual parameters".into(),
        oid::ECDSA_SHA256 => "SHA-256 with ECDSA".into(),
        oid::ECDSA_SHA384 => "SHA-384 with ECDSA".into(),
        oid::ECDSA_SHA512 => "SHA-512 with ECDSA".into(),
        oid::ED448 => "Ed448".into(),
        other => dotted(other),
    }
}

/// An object identifier as it is written.
pub fn dotted(oid: &[u8]) -> String {
    let mut text = String::new();
    let mut number = 0_u64;
    for byte in oid.iter().take(32) {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if text.is_empty() {
            let first = (number / 40).min(2);
            text = format!("{first}.{}", number - first * 40);
        } else {
            text.push_str(&format!(".{number}"));
        }
        number = 0;
    }
    text
}

/// Object identifiers, without their tag and length.
pub mod oid {
    pub const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    pub const RSA_MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];
    pub const RSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
    pub const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
    pub const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    pub const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    pub const P224: &[u8] = &[0x2b, 0x81, 4, 0, 33];
    pub const P384: &[u8] = &[0x2b, 0x81, 4, 0, 34];
    pub const P521: &[u8] = &[0x2b, 0x81, 4, 0, 35];
    pub const SECP256K1: &[u8] = &[0x2b, 0x81, 4, 0, 10];
    pub const BRAINPOOL: &[u8] = &[0x2b, 0x24, 3, 3, 2, 8, 1, 1];
    pub const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
    pub const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    pub const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    pub const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
    pub const DSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1];
    pub const ED25519: &[u8] = &[0x2b, 0x65, 112];
    pub const ED448: &[u8] = &[0x2b, 0x65, 113];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_as_far_as_they_are_whole() {
        let mut der = Der::new(&[0x02, 1, 5, 0x04, 0x81, 2, 8, 9, 0x30, 0]);
        assert_eq!(der.number(), Some(5));
        assert_eq!(der.expect(OCTET_STRING), Some(&[8, 9][..]));
        assert!(der.sequence().is_some_and(|inner| inner.is_empty()) && der.is_empty());
        for broken in [
            &[][..],
            &[2],
            &[2, 2, 1],
            &[2, 0x80, 0],
            &[2, 0x85, 0, 0, 0, 0, 1, 7],
            &[2, 0x84, 255, 255, 255, 255],
        ] {
            assert!(Der::new(broken).any().is_none(), "{broken:?}");
        }
        assert_eq!(Der::new(&[2, 5, 1, 0, 0, 0, 0]).number(), None);
    }

    #[test]
    fn object_identifiers_are_written_with_dots() {
        assert_eq!(dotted(oid::RSA_PSS), "1.2.840.113549.1.1.10");
        assert_eq!(dotted(oid::ED448), "1.3.101.113");
        assert_eq!(dotted(&[0x88, 0x37]), "2.999");
        assert_eq!(dotted(&[0xff; 40]), "");
    }
}
