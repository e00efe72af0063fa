//! A client that the server does not want hears why, whatever it was about to say.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use crate::asking_for_a_certificate;
use crate::support::calls::for_each_face;
use crate::support::capi::*;
use crate::support::certs::certs;
use crate::{ca, url, with_client};

/// The server closes the connection with most of the value unread, and the client's write breaks before it reads.
#[test]
fn a_refused_client_certificate_is_a_tls_error_under_a_large_write() {
    let strange = &certs().strange_client;
    for version in ["TLSv1.2", "TLSv1.3"] {
        let server = asking_for_a_certificate(version);
        for options in [ca(), with_client(&strange.cert, &strange.key)] {
            let url = url(&server, &options);
            for_each_face(|face| {
                for len in [1_000, 100_000, 4_000_000] {
                    let cache = Cache::must_open(&url).with(face);
                    let failure = cache.set("key", vec![b'x'; len]).unwrap_err();
                    let told = (failure.status, failure.flags);
                    assert_eq!(told, (CACHETORY_ERR_TLS, 0), "{len} bytes: {failure:?}");
                }
            });
        }
    }
}

#[test]
fn a_refused_batch_is_a_tls_error() {
    let strange = &certs().strange_client;
    let server = asking_for_a_certificate("TLSv1.3");
    let url = url(&server, &with_client(&strange.cert, &strange.key));
    let value = vec![b'x'; 50_000];
    let items: Vec<_> = (0..40).map(|number| (format!("{number}"), value.clone())).collect();
    for_each_face(|face| {
        for ttl in [NO_EXPIRY, 10_000] {
            let failure = Cache::must_open(&url).with(face).mset(&items, ttl).unwrap_err();
            assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_TLS, 0), "{failure:?}");
        }
    });
}

/// A server that has read a write, and perhaps applied it, and then takes what comes next for broken.
#[test]
fn an_alert_that_is_not_about_the_handshake_is_a_connection_that_broke() {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_file_iter(&certs().server.cert).unwrap();
    let chain: Vec<_> = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&certs().server.key).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&[version]).unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(Vec::clone(&chain), key.clone_key()).unwrap();
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::scope(|scope| {
            scope.spawn(|| {
                for is_cut in [true, true, false] {
                    let (mut socket, _) = listener.accept().unwrap();
                    let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
                    let mut stream = rustls::Stream::new(&mut session, &mut socket);
                    let mut begin = [0; 5];
                    stream.read_exact(&mut begin).unwrap();
                    if !is_cut {
                        stream.write_all(b"$5\r\nvalue\r\n").unwrap();
                        let _ = socket.read(&mut [0; 1]);
                        continue;
                    }
                    // A record that nobody with the keys has made.
                    let broken = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
                    session.read_tls(&mut &broken[..]).unwrap();
                    session.process_new_packets().unwrap_err();
                    while session.wants_write() {
                        session.write_tls(&mut socket).unwrap();
                    }
                    // The client reads it before the connection is gone.
                    let _ = socket.read(&mut [0; 1]);
                }
            });
            let url = format!("rediss://localhost:{port}?{}", ca());
            let cache = Cache::must_open(&url);
            let failure = cache.set("key", "value").unwrap_err();
            let told = (failure.status, failure.flags);
            assert_eq!(told, (CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED), "{failure:?}");
            assert!(failure.message.contains("BadRecordMac"), "{failure:?}");
            assert_eq!(cache.get("key"), Ok(Some(b"value".to_vec())));
            drop(cache);
        });
    }
}
