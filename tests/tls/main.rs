//! Who is trusted over TLS, against real servers: by default everything is verified, and a refusal says what was wrong.

#[path = "../support/mod.rs"]
mod support;

mod kinds;
mod made;
mod password;
mod pem;
mod refused;
mod renewal;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use support::capi::*;
use support::certs::{Pair, certs};
use support::server::{self, Server, Setup};

const OK: Outcome = Ok(CACHETORY_OK);

fn ca() -> String {
    trusting(&certs().ca.cert)
}

fn trusting(file: &Path) -> String {
    format!("ssl_ca_certs={}", file.display())
}

fn with_client(cert: &Path, key: &Path) -> String {
    format!("{}&ssl_certfile={}&ssl_keyfile={}", ca(), cert.display(), key.display())
}

fn serving(pair: &Pair) -> Server {
    Setup::redis().tls(pair, None).start()
}

fn url(server: &Server, options: &str) -> String {
    format!("{}?{options}", server.tls_url())
}

/// By the first call, which connects, if not before.
fn ping(url: &str) -> Outcome {
    Cache::open(url)?.ping()
}

#[track_caller]
fn accepted(server: &Server, options: &str) {
    let url = url(server, options);
    let cache = Cache::must_open(&url);
    assert_eq!(cache.set("key", "value"), OK, "{url}");
    assert_eq!(cache.get("key"), Ok(Some(b"value".to_vec())), "{url}");
}

/// Refused as a matter of TLS, which a retry will not mend, in words that include these.
#[track_caller]
fn refused(url: &str, words: &[&str]) {
    let failure = ping(url).expect_err(url);
    assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_TLS, 0), "{url}: {failure:?}");
    for word in words {
        assert!(failure.message.contains(word), "no {word:?} for {url}: {failure:?}");
    }
}

/// A file system that hangs, as far as a test can have one.
#[test]
fn certificate_files_that_cannot_be_read_end_a_call_at_its_deadline() {
    let dir = support::dir::TempDir::new();
    let pipe = dir.join("pipe.pem");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let server = server::with_tls();
    let url = format!("{}?socket_timeout=0.3&{}", server.tls_url(), trusting(&pipe));
    let cache = Cache::must_open(&url);
    for _ in 0..2 {
        let failure = cache.ping().unwrap_err();
        assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_TIMEOUT, RETRYABLE));
    }
    // Whoever waits in vain for a writer is let go.
    std::fs::write(&pipe, "no certificate").unwrap();
}

#[test]
fn an_authority_of_ones_own_is_trusted() {
    let server = server::with_tls();
    accepted(server, &ca());
    accepted(server, &format!("ssl_ca_path={}", certs().ca_path.display()));
    accepted(server, &format!("{}&ssl_cert_reqs=required&ssl_check_hostname=true", ca()));
    accepted(server, &format!("{}&ssl_cert_reqs=optional", ca()));
    let both = trusting(&certs().other_ca.cert);
    accepted(server, &format!("{both}&ssl_ca_path={}", certs().ca_path.display()));
}

#[test]
fn one_of_several_authorities_in_a_file_is_enough() {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let (other, own) = (read(&certs().other_ca.cert), read(&certs().ca.cert));
    let bundle = certs().file("bundle.pem", &format!("Some words first.\n{other}\n# more\n{own}"));
    accepted(server::with_tls(), &trusting(&bundle));
}

#[test]
fn a_certificate_may_name_an_address() {
    let port = server::with_tls().tls_port();
    for scheme in ["rediss", "valkeys"] {
        let url = format!("{scheme}://127.0.0.1:{port}?{}", ca());
        assert_eq!(ping(&url), OK);
    }
}

#[test]
fn tls_1_2_and_tls_1_3_are_verified_alike() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let server =
            Setup::redis().tls(&certs().server, None).args(["--tls-protocols", version]).start();
        accepted(&server, &ca());
        refused(&url(&server, &trusting(&certs().other_ca.cert)), &["not trusted"]);
    }
}

#[test]
fn a_wrong_name_is_refused() {
    let server = serving(&certs().wrong_name);
    refused(&url(&server, &ca()), &["name", "localhost"]);
    let by_address = format!("rediss://127.0.0.1:{}?{}", server.tls_port(), ca());
    refused(&by_address, &["name", "127.0.0.1"]);
    accepted(&server, &format!("{}&ssl_check_hostname=false", ca()));
    accepted(&server, "ssl_cert_reqs=none");
}

#[test]
fn a_wrong_authority_is_refused() {
    let server = serving(&certs().stranger);
    refused(&url(&server, &ca()), &["not trusted", "localhost"]);
    refused(&url(&server, &format!("{}&ssl_check_hostname=false", ca())), &["not trusted"]);
    refused(&url(&server, &format!("{}&ssl_cert_reqs=optional", ca())), &["not trusted"]);
    accepted(&server, &trusting(&certs().other_ca.cert));
    accepted(&server, &format!("{}&ssl_cert_reqs=none", ca()));
    accepted(&server, "ssl_cert_reqs=none");
}

#[test]
fn an_expired_certificate_is_refused() {
    let server = serving(&certs().expired);
    refused(&url(&server, &ca()), &["expired"]);
    refused(&url(&server, &format!("{}&ssl_check_hostname=false", ca())), &["expired"]);
    accepted(&server, "ssl_cert_reqs=none");
}

#[test]
fn a_self_signed_certificate_may_be_trusted_in_person() {
    for pair in [&certs().self_signed, &certs().self_signed_ca] {
        let server = serving(pair);
        accepted(&server, &trusting(&pair.cert));
        refused(&url(&server, &ca()), &["not trusted"]);
        accepted(&server, "ssl_cert_reqs=none");
    }
    let pair = &certs().self_signed_elsewhere;
    let server = serving(pair);
    refused(&url(&server, &trusting(&pair.cert)), &["name", "localhost"]);
    accepted(&server, &format!("{}&ssl_check_hostname=false", trusting(&pair.cert)));
}

#[test]
fn the_platform_does_not_trust_a_private_authority() {
    refused(&url(server::with_tls(), ""), &[]);
    accepted(server::with_tls(), "ssl_cert_reqs=none");
}

/// The platform's roots are those of the environment, which a process has one of: so this test runs itself again.
#[test]
fn the_platforms_roots_may_be_named_by_the_environment() {
    const URL: &str = "CACHETORY_TEST_TLS_URL";
    const OUTCOME: &str = "CACHETORY_TEST_TLS_OUTCOME";
    if let Ok(url) = std::env::var(URL) {
        let words = std::env::var(OUTCOME).unwrap();
        return if words.is_empty() {
            assert_eq!(ping(&url), OK)
        } else {
            refused(&url, &[&words])
        };
    }
    let url = url(server::with_tls(), "");
    let again = |variable: &str, path: &Path, words: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_platforms_roots_may_be_named_by_the_environment"])
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR")
            .env(variable, path)
            .env(URL, &url)
            .env(OUTCOME, words)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{variable}={}:\n{said}", path.display());
    };
    again("SSL_CERT_FILE", &certs().ca.cert, "");
    again("SSL_CERT_DIR", &certs().ca_path, "");
    again("SSL_CERT_FILE", &certs().other_ca.cert, "not trusted");
    again("SSL_CERT_FILE", &certs().file("empty.pem", ""), "platform");
}

fn asking_for_a_certificate(version: &str) -> Server {
    let setup = Setup::redis().tls(&certs().server, Some(&certs().ca));
    setup.args(["--tls-protocols", version]).start()
}

/// Without a certificate, and with one of an authority that the server does not know.
fn refused_clients(server: &Server) -> [Failure; 2] {
    let strange = &certs().strange_client;
    [ca(), with_client(&strange.cert, &strange.key)].map(|options| {
        let url = url(server, &options);
        let failure = ping(&url).expect_err(&url);
        assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_TLS, 0), "{url}: {failure:?}");
        failure
    })
}

#[test]
fn a_client_certificate_is_shown_to_a_server_that_asks_for_one() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let server = asking_for_a_certificate(version);
        accepted(&server, &with_client(&certs().client.cert, &certs().client.key));
        let in_one = certs().client_in_one.display();
        accepted(&server, &format!("{}&ssl_certfile={in_one}", ca()));
        refused_clients(&server);
    }
}

#[track_caller]
fn told_why(version: &str) {
    let server = asking_for_a_certificate(version);
    for _ in 0..10 {
        let [without, strange] = refused_clients(&server);
        // TLS 1.2 has no word of its own for a certificate that is missing.
        let words = ["CertificateRequired", "HandshakeFailure"];
        assert!(words.iter().any(|word| without.message.contains(word)), "{without:?}");
        assert!(strange.message.contains("UnknownCA"), "{strange:?}");
    }
}

#[test]
fn a_refused_client_is_told_why() {
    told_why("TLSv1.3");
}

#[test]
fn a_refused_client_is_told_why_in_tls_1_2() {
    told_why("TLSv1.2");
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let server = server::with_tls();
    let missing = certs().file("gone.pem", "");
    std::fs::remove_file(&missing).unwrap();
    let garbage = certs().file("garbage.pem", "not a certificate\n");
    let client = &certs().client;
    let empty = certs().ca_path.with_file_name("empty.d");
    std::fs::create_dir(&empty).unwrap();
    for bad in [&missing, &garbage] {
        let name = bad.file_name().unwrap().to_str().unwrap();
        refused(&url(server, &trusting(bad)), &[name]);
        refused(&url(server, &with_client(bad, &client.key)), &[name]);
        refused(&url(server, &with_client(&client.cert, bad)), &[name]);
    }
    for folder in [&missing, &empty] {
        let name = folder.file_name().unwrap().to_str().unwrap();
        refused(&url(server, &format!("ssl_ca_path={}", folder.display())), &[name]);
    }
    // A certificate without its key, and one with another's.
    let alone = format!("{}&ssl_certfile={}", ca(), client.cert.display());
    refused(&url(server, &alone), &["client.pem"]);
    let others = with_client(&client.cert, &certs().strange_client.key);
    refused(&url(server, &others), &["strange-client.key"]);
}

#[test]
fn a_file_with_a_broken_certificate_is_named() {
    const BROKEN: &str =
        "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    let broken = certs().file("broken.pem", BROKEN);
    let server = server::with_tls();
    refused(&url(server, &trusting(&broken)), &["broken.pem"]);
    refused(&url(server, &with_client(&broken, &certs().client.key)), &["broken.pem"]);
}

/// A call that meets its deadline in the handshake of TLS, and says so. On a busy machine it may meet it before.
#[track_caller]
fn hangs_in_the_handshake(url: &str, statuses: &[i32]) -> Failure {
    support::poll("a handshake that hangs", || {
        let failure = ping(url).expect_err(url);
        assert!(statuses.contains(&failure.status), "{url}: {failure:?}");
        failure.message.contains("TLS").then_some(failure)
    })
}

/// Such a server takes the handshake for the start of a long line and waits for the rest of it.
#[test]
fn a_plain_server_behind_a_tls_url_is_named_as_such() {
    let server = server::redis();
    let url = format!("rediss://localhost:{}?socket_timeout=0.5&{}", server.port(), ca());
    hangs_in_the_handshake(&url, &[CACHETORY_ERR_TLS, CACHETORY_ERR_TIMEOUT]);
}

/// Such a server hangs up, with or without an alert that is not RESP.
#[test]
fn a_tls_server_behind_a_plain_url_fails_the_call() {
    let server = server::with_tls();
    let url = format!("redis://localhost:{}", server.tls_port());
    let failure = ping(&url).expect_err(&url);
    let expected = [CACHETORY_ERR_PROTOCOL, CACHETORY_ERR_IO];
    assert!(expected.contains(&failure.status), "{failure:?}");
}

#[test]
fn a_server_that_does_not_answer_the_handshake_ends_a_call_at_its_deadline() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let limits = [
        ("socket_timeout=0.3", CACHETORY_ERR_TIMEOUT),
        ("socket_timeout=600&socket_connect_timeout=0.3", CACHETORY_ERR_CONNECT),
    ];
    for (limit, status) in limits {
        let url = format!("rediss://127.0.0.1:{port}?{limit}&{}", ca());
        let failure = hangs_in_the_handshake(&url, &[status]);
        assert_eq!(failure.flags, RETRYABLE, "{url}: {failure:?}");
    }
}

#[test]
fn a_tls_connection_that_was_cut_is_replaced() {
    let server = serving(&certs().server);
    let cache = Cache::must_open(&url(&server, &ca()));
    assert_eq!(cache.set("key", "value"), OK);
    for _ in 0..3 {
        let () = server.query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert_eq!(cache.get("key"), Ok(Some(b"value".to_vec())));
    }
    server.restart();
    assert_eq!(cache.get("key"), Ok(None));
}
