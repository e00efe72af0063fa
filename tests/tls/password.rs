//! Keys that are encrypted: `ssl_password` opens them, and is in no message.

use crate::made::*;
use crate::support::certs::{Pair, certs};
use crate::support::server::{Server, Setup};
use crate::{accepted, refused, url, with_client};

/// With what a URL has to escape.
const PASSWORD: &str = "se cr%t&#";
const IN_URL: &str = "&ssl_password=se%20cr%25t%26%23";

fn asking() -> Server {
    Setup::redis().tls(&certs().server, Some(&certs().ca)).start()
}

/// The client's key, encrypted by a command that has `in`, `out` and the password's place put behind it.
fn encrypted(made: &Made, name: &str, key: &Pair, command: &[&str]) -> String {
    let out = made.path(name);
    let password = format!("pass:{PASSWORD}");
    let [from, to] = [&key.key, &out].map(|path| path.to_str().unwrap());
    made.openssl(&[command, &["-in", from, "-out", to, "-passout", &password]].concat());
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.contains("ENCRYPTED"), "{text}");
    with_client(&key.cert, &out)
}

#[test]
fn an_encrypted_key_is_opened_with_its_password() {
    let (made, server, client) = (Made::new(), asking(), &certs().client);
    let rsa = rsa_client(&made);
    for (key, command) in [
        (client, &["pkcs8", "-topk8"][..]),
        (client, &["pkcs8", "-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"]),
        (client, &["pkcs8", "-topk8", "-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA384"]),
        (client, &["pkcs8", "-topk8", "-v2", "des3", "-v2prf", "hmacWithSHA512"]),
        (client, &["ec", "-aes256"]),
        (&rsa, &["rsa", "-traditional", "-aes128"]),
        (&rsa, &["rsa", "-traditional", "-aes192"]),
        (&rsa, &["rsa", "-traditional", "-des3"]),
    ] {
        let options = encrypted(&made, "encrypted.key", key, command);
        accepted(&server, &format!("{options}{IN_URL}"));
        refused(&url(&server, &options), &["encrypted.key", "encrypted", "ssl_password"]);
        for wrong in ["x", "se%20cr%25t%26", "se%20cr%25t%26%23%23"] {
            let url = url(&server, &format!("{options}&ssl_password={wrong}"));
            refused(&url, &["encrypted.key", "ssl_password does not open"]);
        }
    }
}

fn rsa_client(made: &Made) -> Pair {
    let ca = &certs().ca;
    made.put(ca, "ca");
    made.certificate("rsa", "ca", RSA, Version::Three)
}

/// What cannot be opened is named, and what would do.
#[test]
fn a_key_that_is_encrypted_in_a_rare_way_is_refused_with_its_name() {
    let (made, server, client) = (Made::new(), asking(), &certs().client);
    for (command, word) in [
        (&["pkcs8", "-topk8", "-scrypt"][..], "scrypt"),
        (&["pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES"], "PBES1"),
        (&["pkcs8", "-topk8", "-v2", "camellia-256-cbc"], "1.2.392.200011.61.1.1.1.4"),
        (&["ec", "-camellia256"], "CAMELLIA-256-CBC"),
    ] {
        let options = encrypted(&made, "rare.key", client, command);
        refused(&url(&server, &format!("{options}{IN_URL}")), &["rare.key", word, "aes-256-cbc"]);
    }
}

#[test]
fn a_password_that_is_not_needed_does_no_harm() {
    let server = asking();
    let client = &certs().client;
    accepted(&server, &format!("{}{IN_URL}", with_client(&client.cert, &client.key)));
    accepted(&server, &format!("{}&ssl_password=", with_client(&client.cert, &client.key)));
}

#[test]
fn the_password_shows_in_no_message() {
    let (made, server, client) = (Made::new(), asking(), &certs().client);
    let options = encrypted(&made, "encrypted.key", client, &["pkcs8", "-topk8"]);
    for end in ["", "&nonsense=1", "&ssl_cert_reqs=maybe", "%zz"] {
        let url = url(&server, &format!("{options}&ssl_password=hQ-zXw9!jKvY{end}"));
        let failure = crate::ping(&url).unwrap_err();
        assert!(!failure.message.contains("hQ-zXw9"), "{failure:?}");
    }
}
