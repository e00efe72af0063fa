//! A client that the server does not want hears why, whatever it was about to say.

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
