//! What needs a process of its own: the I/O thread, and a resolver that hangs.

use super::support::certs::certs;
use super::support::patient;
use super::support::program::Program;
use super::support::scripted::Scripted;
use super::support::server::Setup;

#[test]
fn the_io_thread_comes_when_needed_sleeps_and_goes_with_the_last_cache() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let program = Program::build("io_thread");
    let hung = Scripted::tcp(|peer| while peer.request().is_some() {});
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    for url in [server.tcp_url(), server.unix_url(), tls] {
        println!("{url}");
        program.run(&[patient(&url).as_str(), &hung.url("socket_timeout=600")]);
    }
}

#[test]
fn a_name_server_that_hangs_holds_up_no_other_cache_and_no_close() {
    let server = Setup::redis().start();
    let name = format!("redis://localhost:{}", server.port());
    Program::build("resolver").run(&[patient(&name)]);
}
