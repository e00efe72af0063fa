//! Private keys that a password opens: PKCS#8 with PBES2, and what OpenSSL wrote before, whose header tells the cipher.

use std::num::NonZeroU32;

use aes::{Aes128, Aes192, Aes256};
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use des::TdesEde3;
use md5::{Digest, Md5};
use ring::pbkdf2;

use super::der::{Der, OCTET_STRING, OID, dotted};

/// Why a key stays closed.
#[derive(Debug, PartialEq, Eq)]
pub enum Closed {
    WrongPassword,
    /// It is encrypted in another way, which is called so.
    Unsupported(String),
    /// What should say how it is encrypted cannot be read.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
}

impl Cipher {
    fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes256 => 32,
        }
    }

    fn decrypt(self, key: &[u8], iv: &[u8], data: &[u8]) -> Result<Vec<u8>, Closed> {
        match self {
            Self::Aes128 => decrypt::<Decryptor<Aes128>>(key, iv, data),
            Self::Aes192 => decrypt::<Decryptor<Aes192>>(key, iv, data),
            Self::Aes256 => decrypt::<Decryptor<Aes256>>(key, iv, data),
            Self::TripleDes => decrypt::<Decryptor<TdesEde3>>(key, iv, data),
        }
    }
}

/// A wrong password shows in what comes out, which is no DER.
fn decrypt<D: BlockModeDecrypt + KeyIvInit>(
    key: &[u8],
    iv: &[u8],
    data: &[u8],
) -> Result<Vec<u8>, Closed> {
    let cipher = D::new_from_slices(key, iv).map_err(|_| Closed::Broken)?;
    let mut plain = data.to_vec();
    let len = cipher.decrypt_padded::<Pkcs7>(&mut plain).map_err(|_| Closed::WrongPassword)?.len();
    plain.truncate(len);
    let mut der = Der::new(&plain);
    let is_der = der.sequence().is_some() && der.is_empty();
    if is_der { Ok(plain) } else { Err(Closed::WrongPassword) }
}

const PBES2: &str = "1.2.840.113549.1.5.13";
const PBKDF2: &str = "1.2.840.113549.1.5.12";
const SCRYPT: &str = "1.3.6.1.4.1.11591.4.11";
/// More would take minutes.
const MOST_ITERATIONS: u32 = 10_000_000;

/// An `EncryptedPrivateKeyInfo` (RFC 5958): the `PrivateKeyInfo` in it.
pub fn open_pkcs8(der: &[u8], password: &[u8]) -> Result<Vec<u8>, Closed> {
    let (how, data) = parts(der).ok_or(Closed::Broken)?;
    let (how, parameters) = algorithm(how).ok_or(Closed::Broken)?;
    if how != PBES2 {
        return Err(Closed::Unsupported(format!("PBES1 or another old scheme, {how}")));
    }
    let (derivation, encryption) = pair(parameters).ok_or(Closed::Broken)?;
    let (derivation, parameters) = algorithm(derivation).ok_or(Closed::Broken)?;
    let derivation = match derivation.as_str() {
        PBKDF2 => Pbkdf2::read(parameters)?,
        SCRYPT => return Err(Closed::Unsupported("scrypt".into())),
        _ => return Err(Closed::Unsupported(derivation)),
    };
    let (cipher, mut iv) = algorithm(encryption).ok_or(Closed::Broken)?;
    let cipher = match cipher.as_str() {
        "2.16.840.1.101.3.4.1.2" => Cipher::Aes128,
        "2.16.840.1.101.3.4.1.22" => Cipher::Aes192,
        "2.16.840.1.101.3.4.1.42" => Cipher::Aes256,
        "1.2.840.113549.3.7" => Cipher::TripleDes,
        _ => return Err(Closed::Unsupported(cipher)),
    };
    let iv = iv.expect(OCTET_STRING).ok_or(Closed::Broken)?;
    let key = derivation.key(password, cipher.key_len());
    cipher.decrypt(&key, iv, data)
}

fn parts(der: &[u8]) -> Option<(Der<'_>, &[u8])> {
    let mut info = Der::new(der).sequence()?;
    Some((info.sequence()?, info.expect(OCTET_STRING)?))
}

fn pair(mut parameters: Der<'_>) -> Option<(Der<'_>, Der<'_>)> {
    let mut both = parameters.sequence()?;
    Some((both.sequence()?, both.sequence()?))
}

/// The dotted name of an algorithm, and its parameters.
fn algorithm(mut identifier: Der<'_>) -> Option<(String, Der<'_>)> {
    let name = identifier.expect(OID).map(dotted)?;
    Some((name, identifier))
}

struct Pbkdf2<'a> {
    hash: pbkdf2::Algorithm,
    salt: &'a [u8],
    iterations: NonZeroU32,
}

impl<'a> Pbkdf2<'a> {
    fn read(mut parameters: Der<'a>) -> Result<Self, Closed> {
        let (salt, iterations, mut rest) = Self::numbers(&mut parameters).ok_or(Closed::Broken)?;
        let hash = match rest.sequence().and_then(algorithm) {
            None => "1.2.840.113549.2.7".into(),
            Some((name, _)) => name,
        };
        let hash = match hash.as_str() {
            "1.2.840.113549.2.7" => pbkdf2::PBKDF2_HMAC_SHA1,
            "1.2.840.113549.2.9" => pbkdf2::PBKDF2_HMAC_SHA256,
            "1.2.840.113549.2.10" => pbkdf2::PBKDF2_HMAC_SHA384,
            "1.2.840.113549.2.11" => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return Err(Closed::Unsupported(format!("PBKDF2 with {hash}"))),
        };
        if iterations.get() > MOST_ITERATIONS {
            return Err(Closed::Unsupported(format!("PBKDF2 with {iterations} iterations")));
        }
        Ok(Self { hash, salt, iterations })
    }

    fn numbers(parameters: &mut Der<'a>) -> Option<(&'a [u8], NonZeroU32, Der<'a>)> {
        let mut parameters = parameters.sequence()?;
        let salt = parameters.expect(OCTET_STRING)?;
        let iterations = NonZeroU32::new(parameters.number()?)?;
        let mut behind_len = parameters;
        let rest = if behind_len.number().is_some() { behind_len } else { parameters };
        Some((salt, iterations, rest))
    }

    fn key(&self, password: &[u8], len: usize) -> Vec<u8> {
        let mut key = vec![0; len];
        pbkdf2::derive(self.hash, self.iterations, self.salt, password, &mut key);
        key
    }
}

/// What lies under `DEK-Info: CIPHER,IV` (RFC 1421, as OpenSSL has it).
pub fn open_older(info: &str, data: &[u8], password: &[u8]) -> Result<Vec<u8>, Closed> {
    let (cipher, iv) = info.split_once(',').ok_or(Closed::Broken)?;
    let cipher = match cipher.trim() {
        "AES-128-CBC" => Cipher::Aes128,
        "AES-192-CBC" => Cipher::Aes192,
        "AES-256-CBC" => Cipher::Aes256,
        "DES-EDE3-CBC" => Cipher::TripleDes,
        other => return Err(Closed::Unsupported(other.chars().take(40).collect())),
    };
    let iv = hex(iv.trim()).ok_or(Closed::Broken)?;
    let salt = iv.get(..8).ok_or(Closed::Broken)?;
    let mut key = Vec::new();
    let mut hash = Vec::new();
    while key.len() < cipher.key_len() {
        hash = Md5::digest([&hash[..], password, salt].concat()).to_vec();
        key.extend_from_slice(&hash);
    }
    key.truncate(cipher.key_len());
    cipher.decrypt(&key, &iv, data)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |two: &[u8]| match two {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    };
    text.as_bytes().chunks(2).map(byte).collect()
}
