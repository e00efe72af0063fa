//! Bytes: operations to requests, replies to answers, handshakes. Does no I/O, knows no thread, has no clock.

pub mod command;
pub mod decode;
pub mod encode;
pub mod handshake;
pub mod replies;
