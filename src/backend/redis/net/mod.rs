//! Sockets: TCP, Unix, TLS, names, trust. Knows no RESP.

pub mod dial;
pub mod pulse;
pub mod resolve;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod trust;
