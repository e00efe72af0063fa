//! Certificates and keys of every kind: what OpenSSL takes is taken, and what is not is named.

use crate::made::*;
use crate::support::certs::Pair;
use crate::support::server::{Server, Setup};
use crate::{OK, accepted, ping, refused, trusting, url};

const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

fn serving(pair: &Pair, clients: Option<&Pair>, version: &str) -> Server {
    Setup::redis().tls(pair, clients).args(["--tls-protocols", version]).start()
}

#[test]
fn a_server_of_version_1_is_taken_where_nothing_is_verified() {
    let made = Made::new();
    let ca = made.authority("ca", P256);
    for (name, key) in [("rsa", RSA), ("p256", P256), ("p521", P521)] {
        let pair = made.certificate(name, "ca", key, Version::One);
        for version in VERSIONS {
            let server = serving(&pair, None, version);
            accepted(&server, "ssl_cert_reqs=none");
            refused(&url(&server, &trusting(&ca.cert)), &["X.509 version 1", "subjectAltName"]);
        }
    }
}

/// Nothing that a server says of itself is believed without its signature.
#[test]
fn p_521_is_verified_as_any_other() {
    let made = Made::new();
    let (ca, other) = (made.authority("ca", P521), made.authority("other", P521));
    for key in [P521, P256] {
        let pair = made.certificate("server", "ca", key, Version::Three);
        for version in VERSIONS {
            let server = serving(&pair, None, version);
            accepted(&server, &trusting(&ca.cert));
            accepted(&server, "ssl_cert_reqs=none");
            refused(&url(&server, &trusting(&other.cert)), &["not trusted"]);
        }
    }
}

/// The exchange of keys may be bound to that curve as well.
#[test]
fn a_server_may_know_no_curve_but_p_521() {
    let made = Made::new();
    let ca = made.authority("ca", P521);
    let pair = made.certificate("server", "ca", P521, Version::Three);
    let config = made.path("openssl.cnf");
    let text = "openssl_conf = conf\n[conf]\nssl_conf = ssl\n[ssl]\nsystem_default = default\n\
                [default]\nGroups = P-521\n";
    std::fs::write(&config, text).unwrap();
    let program = "import socket, ssl, sys\n\
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
        context.load_cert_chain(sys.argv[1], sys.argv[2])\n\
        listener = socket.create_server(('127.0.0.1', 0))\n\
        print(listener.getsockname()[1], flush=True)\n\
        while True:\n\
        \x20   with context.wrap_socket(listener.accept()[0], server_side=True) as session:\n\
        \x20       session.recv(99)\n\
        \x20       session.sendall(b'+PONG\\r\\n')\n\
        \x20       session.recv(1)\n";
    let mut child = std::process::Command::new("python3")
        .args(["-c", program])
        .args([&pair.cert, &pair.key])
        .env("OPENSSL_CONF", &config)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    let out = child.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut port).unwrap();
    let answer = ping(&format!("rediss://localhost:{}?{}", port.trim(), trusting(&ca.cert)));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(answer, OK);
}

#[test]
fn keys_for_nothing_but_rsa_pss_are_verified_with_tls_1_3() {
    let made = Made::new();
    let ca = made.authority("ca", P256);
    let pair = made.certificate("server", "ca", RSA_PSS, Version::Three);
    let server = serving(&pair, None, "TLSv1.3");
    accepted(&server, &trusting(&ca.cert));
    accepted(&server, "ssl_cert_reqs=none");
    let server = serving(&pair, None, "TLSv1.2");
    refused(&url(&server, &trusting(&ca.cert)), &["TLS 1.3"]);
}

/// Where nothing is verified it need not be a kind that could be.
#[test]
fn a_key_of_another_kind_will_do_where_nothing_is_verified() {
    let made = Made::new();
    let ca = made.authority("ca", P256);
    let pair = made.certificate("server", "ca", ED448, Version::Three);
    let server = serving(&pair, None, "TLSv1.3");
    accepted(&server, "ssl_cert_reqs=none");
    refused(&url(&server, &trusting(&ca.cert)), &["kind"]);
}

#[test]
fn an_authority_that_cannot_be_verified_with_is_named() {
    let made = Made::new();
    let short: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    for (name, key, word) in [("ed448", ED448, "Ed448"), ("short", short, "1024 bits")] {
        let ca = made.authority(name, key);
        let pair = made.certificate("server", name, P256, Version::Three);
        let server = Setup::redis().tls(&pair, None).args(["--tls-ciphers", "ALL@SECLEVEL=0"]);
        let server = server.start();
        refused(&url(&server, &trusting(&ca.cert)), &["authority", word]);
        accepted(&server, "ssl_cert_reqs=none");
    }
}

#[test]
fn a_client_may_show_a_certificate_of_any_version_and_key() {
    let made = Made::new();
    let ca = made.authority("ca", P256);
    let own = made.certificate("server", "ca", P256, Version::Three);
    for version in VERSIONS {
        let server = serving(&own, Some(&ca), version);
        for (name, key, of) in [
            ("rsa1", RSA, Version::One),
            ("p256-1", P256, Version::One),
            ("p521", P521, Version::Three),
            ("p521-1", P521, Version::One),
            ("ed25519", ED25519, Version::Three),
        ] {
            let client = made.certificate(name, "ca", key, of);
            accepted(&server, &showing(&ca, &client));
        }
    }
    let server = serving(&own, Some(&ca), "TLSv1.3");
    let pss = made.certificate("pss", "ca", RSA_PSS, Version::Three);
    accepted(&server, &showing(&ca, &pss));
    let other = made.certificate("ed448", "ca", ED448, Version::Three);
    refused(&url(&server, &showing(&ca, &other)), &["ed448.key", "Ed448"]);
}

/// As `openssl ecparam -genkey` and others write them.
#[test]
fn a_key_may_lie_in_its_older_form() {
    let made = Made::new();
    let ca = made.authority("ca", P256);
    let own = made.certificate("server", "ca", P256, Version::Three);
    let server = serving(&own, Some(&ca), "TLSv1.3");
    for (name, key, form) in [("rsa", RSA, "rsa"), ("p256", P256, "ec"), ("p521", P521, "ec")] {
        let client = made.certificate(name, "ca", key, Version::Three);
        let old = made.path("old.key");
        let [from, to] = [&client.key, &old].map(|path| path.to_str().unwrap());
        let traditional: &[&str] = if form == "rsa" { &["-traditional"] } else { &[] };
        made.openssl(&[&[form, "-in", from, "-out", to], traditional].concat());
        let text = std::fs::read_to_string(&old).unwrap();
        assert!(text.contains(&format!("BEGIN {} PRIVATE KEY", form.to_uppercase())), "{text}");
        let parameters =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        std::fs::write(&old, format!("{parameters}{text}")).unwrap();
        accepted(&server, &showing(&ca, &Pair { cert: client.cert, key: old }));
    }
}

fn showing(ca: &Pair, client: &Pair) -> String {
    let (cert, key) = (client.cert.display(), client.key.display());
    format!("{}&ssl_certfile={cert}&ssl_keyfile={key}", trusting(&ca.cert))
}
