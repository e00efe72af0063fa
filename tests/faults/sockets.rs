//! How the library's sockets are set up, as this process sees them.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::{getpeername, sockopt};

use super::support::calls::*;
use super::support::capi::*;
use super::support::scripted::{Scripted, echo};
use super::support::socket::Address;

/// Shows the sockets of this process that are connected to a server; how many there are.
fn connected_to(server: &Scripted, mut look: impl FnMut(BorrowedFd<'_>)) -> usize {
    let Address::Tcp(port) = server.address() else { panic!("not on TCP") };
    let mut count = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: what it names is only asked what it is; one that was closed meanwhile is an error.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let peer = getpeername(fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        if peer.is_some_and(|peer| peer.port() == *port) {
            look(fd);
            count += 1;
        }
    }
    count
}

#[test]
fn keep_alive_comes_before_a_flow_is_forgotten_unless_it_is_off() {
    for_each_face(|face| {
        for (options, is_on) in [("", true), ("socket_keepalive=false", false)] {
            let server = Scripted::tcp(|peer| peer.serve(echo));
            let cache = Cache::must_open(&server.url(options)).with(face);
            assert_eq!(cache.ping(), Ok(CACHETORY_OK));
            let count = connected_to(&server, |fd| {
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
            let count = connected_to(&server, |fd| {
                let told = sockopt::socket_timeout(fd, sockopt::Timeout::Recv).unwrap();
                assert!(told.is_some_and(|told| 4 * told <= 3 * Duration::from_secs(seconds)));
            });
            assert!(count > 0);
        }
    });
}
