//! What needs a process of its own: the I/O thread, forks, a resolver that hangs.

use super::Gates;
use super::support::certs::certs;
use super::support::program::Program;
use super::support::scripted::{Scripted, name};
use super::support::server::Setup;

#[test]
fn the_thread_and_its_life() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let program = Program::build("io_thread");
    let hung = Scripted::tcp(|peer| while peer.request().is_some() {});
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    for url in [server.tcp_url(), server.unix_url(), tls] {
        println!("{url}");
        program.run(&[url.as_str(), &hung.url("socket_timeout=600")]);
    }
}

#[test]
fn forks() {
    let program = Program::build("async_fork");
    let gates = Gates::default();
    let gate = gates.clone();
    // What the parent has in flight is answered when it says so.
    let server = Scripted::tcp(move |peer| {
        while let Some(command) = peer.request() {
            if name(&command) == "SET" && command[1] == b"open" {
                gate.open(1);
            }
            peer.hang_until(|| gate.is_open_for(&command));
            if !peer.send(super::echo(&command)) {
                return;
            }
        }
    });
    program.run(&[
        "held",
        &server.url("socket_timeout=60"),
        &server.url("socket_timeout=60&max_connections=1"),
    ]);
    assert!(server.count("GET") > 0);
    let server = Setup::redis().tls(&certs().server, None).start();
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    let one = format!("{}?max_connections=1", server.tcp_url());
    for url in [server.tcp_url(), server.unix_url(), tls, one] {
        println!("{url}");
        program.run(&["busy", &url, "memory://"]);
    }
}

#[test]
fn a_resolver_that_hangs() {
    let server = Setup::redis().start();
    let name = format!("redis://localhost:{}", server.port());
    Program::build("resolver").run(&[name]);
}
