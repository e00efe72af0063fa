//! Files as tools and editors leave them.

use std::fs;

use crate::made::Made;
use crate::support::certs::{Pair, certs};
use crate::support::server::Setup;
use crate::{accepted, refused, trusting, url, with_client};

#[test]
fn pem_is_taken_as_openssl_takes_it() {
    let made = Made::new();
    let server = Setup::redis().tls(&certs().server, Some(&certs().ca)).start();
    let read = |path| fs::read_to_string(path).unwrap();
    let (ca, client) = (read(&certs().ca.cert), &certs().client);
    let (cert, key) = (read(&client.cert), read(&client.key));
    let forms: [fn(&str) -> String; 5] = [
        |text| format!("\u{feff}{text}"),
        |text| text.replace('\n', "\r\n"),
        |text| format!("Bag Attributes\n    friendlyName: a name: of colons\n\n{text}\nthe end"),
        |text| text.replace('\n', " \n"),
        |text| text.replace("BEGIN CERT", "BEGIN X509 CERT").replace("END CERT", "END X509 CERT"),
    ];
    for form in forms {
        let files = ["ca.pem", "client.pem", "client.key"].map(|name| made.path(name));
        for (file, text) in files.iter().zip([&ca, &cert, &key]) {
            fs::write(file, form(text)).unwrap();
        }
        let [ca, cert, key] = &files;
        let shown = format!("&ssl_certfile={}&ssl_keyfile={}", cert.display(), key.display());
        accepted(&server, &format!("{}{shown}", trusting(ca)));
    }
}

/// As `openssl x509 -trustout` writes it: behind the certificate lies what it is trusted for.
#[test]
fn a_trusted_certificate_of_openssl_is_one() {
    let made = Made::new();
    let server = Setup::redis().tls(&certs().server, Some(&certs().ca)).start();
    let trusted = |pair: &Pair, name: &str| {
        let out = made.path(name);
        let [from, to] = [&pair.cert, &out].map(|path| path.to_str().unwrap());
        made.openssl(&["x509", "-in", from, "-trustout", "-addtrust", "serverAuth", "-out", to]);
        assert!(fs::read_to_string(&out).unwrap().contains("BEGIN TRUSTED CERTIFICATE"));
        out
    };
    let (ca, client) = (trusted(&certs().ca, "ca.pem"), trusted(&certs().client, "client.pem"));
    let shown = format!("&ssl_certfile={}", client.display());
    let key = format!("&ssl_keyfile={}", certs().client.key.display());
    accepted(&server, &format!("{}{shown}{key}", trusting(&ca)));
}

#[test]
fn an_authority_may_be_of_version_1() {
    let made = Made::new();
    let at = |name| made.path(name).to_str().unwrap().to_owned();
    let (key, request, cert) = (at("ca.key"), at("ca.csr"), at("ca.pem"));
    made.openssl(&["genpkey", "-algorithm", "ED25519", "-out", &key]);
    made.openssl(&["req", "-new", "-key", &key, "-subj", "/CN=an old one", "-out", &request]);
    made.openssl(&["x509", "-req", "-in", &request, "-signkey", &key, "-out", &cert]);
    let own = made.certificate("server", "ca", crate::made::P256, crate::made::Version::Three);
    let server = Setup::redis().tls(&own, None).start();
    accepted(&server, &trusting(&made.path("ca.pem")));
}

#[test]
fn what_is_no_pem_is_said_to_be_none() {
    let made = Made::new();
    let server = crate::support::server::with_tls();
    let ca = certs().ca.cert.to_str().unwrap();
    made.openssl(&["x509", "-in", ca, "-outform", "DER", "-out", "ca.der"]);
    let der = made.path("ca.der");
    refused(&url(server, &trusting(&der)), &["ca.der", "not PEM but DER"]);
    let text = fs::read_to_string(&certs().ca.cert).unwrap();
    let half = made.path("half.pem");
    fs::write(&half, &text[..text.len() / 2]).unwrap();
    refused(&url(server, &trusting(&half)), &["half.pem", "ends in the middle"]);
    refused(&url(server, &with_client(&half, &certs().client.key)), &["half.pem"]);
    fs::write(&half, text.replace('M', "-")).unwrap();
    refused(&url(server, &trusting(&half)), &["half.pem", "base64"]);
    let folder = half.parent().unwrap();
    refused(&url(server, &trusting(folder)), &["directory"]);
    let endless = std::path::Path::new("/dev/zero");
    refused(&url(server, &trusting(endless)), &["/dev/zero", "16 MiB"]);
}
