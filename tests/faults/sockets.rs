//! How the library's sockets are set up, as this process sees them.

use std::time::Duration;

use rustix::net::sockopt;

use super::support::calls::*;
use super::support::capi::*;
use super::support::scripted::{Scripted, echo};
use super::support::socket::connected_to;

#[test]
fn keep_alive_comes_before_a_flow_is_forgotten_unless_it_is_off() {
    for_each_face(|face| {
        for (options, is_on) in [("", true), ("socket_keepalive=false", false)] {
            let server = Scripted::tcp(|peer| peer.serve(echo));
            let cache = Cache::must_open(&server.url(options)).with(face);
            assert_eq!(cache.ping(), Ok(CACHETORY_OK));
            let count = connected_to(server.address(), |fd| {
                assert_eq!(sockopt::socket_keepalive(fd), Ok(is_on));
                if is_on {
                    assert_eq!(sockopt::tcp_keepidle(fd), Ok(Duration::from_secs(60)));
                    assert_eq!(sockopt::tcp_keepintvl(fd), Ok(Duration::from_secs(15)));
                    assert_eq!(sockopt::tcp_keepcnt(fd), Ok(3));
                }
            });
            assert!(count > 0);
        }
    });
}

/// The kernel keeps a socket's timeouts on coarse wheels, an eighth of the time and more: a deadline is not left to it.
#[test]
fn a_sockets_own_timeout_ends_well_before_the_deadline() {
    for_each_face(|face| {
        for seconds in [1, 30, 3600] {
            let server = Scripted::tcp(|peer| peer.serve(echo));
            let url = server.url(&format!("socket_timeout={seconds}"));
            let cache = Cache::must_open(&url).with(face);
            assert_eq!(cache.ping(), Ok(CACHETORY_OK));
            let count = connected_to(server.address(), |fd| {
                let told = sockopt::socket_timeout(fd, sockopt::Timeout::Recv).unwrap();
                assert!(told.is_some_and(|told| 4 * told <= 3 * Duration::from_secs(seconds)));
            });
            assert!(count > 0);
        }
    });
}
