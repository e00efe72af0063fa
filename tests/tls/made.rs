//! Certificates and keys of every kind, made for one test.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::certs::{Pair, openssl};
use crate::support::dir::TempDir;

/// A directory of certificates.
pub struct Made(TempDir);

/// What `openssl genpkey` makes.
pub const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
pub const RSA_PSS: &[&str] = &["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"];
pub const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
pub const P521: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp521r1"];
pub const ED25519: &[&str] = &["-algorithm", "ED25519"];
pub const ED448: &[&str] = &["-algorithm", "ED448"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Three,
}

impl Made {
    pub fn new() -> Self {
        Self(TempDir::new())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn openssl(&self, args: &[&str]) -> String {
        openssl(self.0.path(), args)
    }

    pub fn pair(&self, name: &str) -> Pair {
        Pair { cert: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) }
    }

    pub fn authority(&self, name: &str, key: &[&str]) -> Pair {
        let key_name = format!("{name}.key");
        self.openssl(&[&["genpkey", "-out", &key_name], key].concat());
        let (out, subject) = (format!("{name}.pem"), format!("/CN={name}"));
        let ca = "basicConstraints=critical,CA:TRUE";
        self.openssl(&[
            "req", "-x509", "-new", "-days", "2", "-key", &key_name, "-out", &out, "-subj",
            &subject, "-addext", ca,
        ]);
        self.pair(name)
    }

    /// A certificate for localhost, by the authority that is called so.
    pub fn certificate(&self, name: &str, by: &str, key: &[&str], version: Version) -> Pair {
        let files = [".key", ".csr", ".ext", ".pem"].map(|end| format!("{name}{end}"));
        let [key_name, request, extensions, out] = files.each_ref().map(String::as_str);
        self.openssl(&[&["genpkey", "-out", key_name], key].concat());
        let config = "/dev/null";
        self.openssl(&[
            "req",
            "-new",
            "-config",
            config,
            "-key",
            key_name,
            "-subj",
            "/CN=localhost",
            "-out",
            request,
        ]);
        let (ca, ca_key) = (format!("{by}.pem"), format!("{by}.key"));
        let mut args = vec![
            "x509",
            "-req",
            "-in",
            request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-out",
            out,
        ];
        if version == Version::Three {
            let text = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n";
            fs::write(self.path(extensions), text).unwrap();
            args.extend(["-extfile", extensions]);
        }
        self.openssl(&args);
        if version == Version::One {
            let text = self.openssl(&["x509", "-in", out, "-noout", "-text"]);
            assert!(text.contains("Version: 1"), "this openssl makes no such certificates");
        }
        self.pair(name)
    }

    /// Puts a pair in another's place, as who renews a certificate does.
    pub fn put(&self, pair: &Pair, name: &str) {
        let place = self.pair(name);
        copy(&pair.cert, &place.cert);
        copy(&pair.key, &place.key);
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
}
