//! A host that does not answer at all, not even to say that nobody listens.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::socket::Address;

/// A port whose queue of connections is full: the kernel ignores whoever wants to join it, as a dead host would.
pub struct FullPort {
    pub address: Address,
    _sockets: Vec<OwnedFd>,
}

impl FullPort {
    pub fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![OwnedFd::from(listener)];
        for _ in 0..4 {
            let kind = SocketType::STREAM;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None).unwrap();
            let _ = rustix::net::connect(&socket, &address);
            sockets.push(socket);
        }
        Self { address: Address::Tcp(address.port()), _sockets: sockets }
    }

    pub fn url(&self, options: &str) -> String {
        self.address.url(options)
    }
}
