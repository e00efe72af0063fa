//! What needs a plain C process: its signals, its limits, its way with arguments.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::support::certs::certs;
use super::support::program::Program;
use super::support::proxy::{End, Proxy, Way};
use super::support::scripted::Scripted;
use super::support::server::{Server, Setup, redis};
use super::support::socket::Address;
use super::support::{patient, poll};

fn server() -> Server {
    Setup::redis().tls(&certs().server, None).start()
}

/// For a TLS server that is reached by this port.
fn tls_url(port: u16) -> String {
    format!("rediss://localhost:{port}/?ssl_ca_certs={}", certs().ca.cert.display())
}

#[test]
fn no_argument_of_a_c_caller_crashes_any_function() {
    let program = Program::build("arguments");
    // A server cannot be told to expire a key outside its own time, hence a database of its own.
    for url in ["dummy://", "memory://", &format!("{}/9", redis().tcp_url())] {
        println!("{url}");
        program.run(&[patient(url)]);
    }
}

#[test]
fn a_c_program_submits_polls_and_releases() {
    Program::build("async").run::<&str>(&[]);
}

#[test]
fn a_broken_connection_never_raises_sigpipe() {
    let server = server();
    let program = Program::build("sigpipe");
    let proxies = [
        Proxy::to(Address::Tcp(server.port())),
        Proxy::unix_to(Address::Unix(server.socket())),
        Proxy::to(Address::Tcp(server.tls_port())),
    ];
    let urls =
        [proxies[0].address().url(""), proxies[1].address().url(""), tls_url(proxies[2].port())];
    for (proxy, url) in proxies.iter().zip(urls) {
        println!("{url}");
        server.query::<()>(&["DEL", "stop"]);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                break_often(proxy, &over);
                server.query::<()>(&["SET", "stop", "1"]);
            });
            let printed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                program.run(&[patient(&url)])
            }));
            over.store(true, Ordering::SeqCst);
            let printed = printed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let counts: Vec<u64> =
                printed.split_whitespace().map(|word| word.parse().unwrap()).collect();
            assert!(counts[0] > 0 && counts[1] > 0, "{} answered, {} failed", counts[0], counts[1]);
        });
    }
}

/// Cuts in the middle of requests and replies, between them, and with more to come. Each time the program has got so
/// far that it notices.
fn break_often(proxy: &Proxy, over: &AtomicBool) {
    let until = |what: &str, is_done: &dyn Fn() -> bool| {
        poll(what, || (is_done() || over.load(Ordering::SeqCst)).then_some(()));
    };
    until("the program has begun", &|| proxy.connections() > 0);
    for round in 0..150 {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let end = if round % 2 == 0 { End::Close } else { End::Reset };
        let cut = |way, bytes| {
            proxy.cut_after(way, bytes, end);
            until("the cut", &|| !proxy.cut_pending(way));
        };
        match round % 5 {
            0 => cut(Way::ToServer, round * 997),
            1 => cut(Way::ToClient, round),
            2 => cut(Way::ToServer, round),
            3 => cut(Way::ToClient, 0),
            _ => {
                let before = proxy.passed(Way::ToServer);
                proxy.end_all(end);
                until("the program goes on", &|| proxy.passed(Way::ToServer) > before);
            }
        }
    }
}

#[test]
fn signals_neither_fail_a_call_nor_put_off_its_deadline() {
    let server = server();
    let hanging = Scripted::tcp(|peer| peer.hang());
    let program = Program::build("signals");
    let hanging = hanging.url("socket_timeout=0.3");
    for url in [server.tcp_url(), server.unix_url(), tls_url(server.tls_port())] {
        println!("{url}");
        program.run(&[patient(&url).as_str(), &hanging]);
    }
    let name = format!("redis://localhost:{}", server.port());
    program.run(&[patient(&name).as_str(), &hanging]);
}

#[test]
fn a_process_without_descriptors_is_told_so_and_goes_on_later() {
    let server = server();
    let program = Program::build("limits");
    for url in [server.tcp_url(), server.unix_url(), tls_url(server.tls_port())] {
        println!("{url}");
        program.run(&["descriptors", &patient(&url)]);
    }
}

#[test]
fn a_process_without_descriptors_makes_do_with_the_links_that_there_are() {
    let server = server();
    let program = Program::build("limits");
    for url in [server.tcp_url(), server.unix_url(), tls_url(server.tls_port())] {
        println!("{url}");
        program.run(&["links", &patient(&url)]);
    }
}

#[test]
fn a_store_without_memory_for_small_values_is_told_so_and_goes_on_later() {
    let program = Program::build("limits");
    for url in ["memory://", "memory://?max_bytes=1g"] {
        for size in ["0", "64", "1000", "4096", "16000"] {
            println!("{url} {size}");
            program.run(&["pieces", url, size]);
        }
    }
}

#[test]
fn a_process_without_memory_for_a_large_value_is_told_so_and_goes_on_later() {
    let server = server();
    let program = Program::build("limits");
    for url in [server.tcp_url(), server.unix_url()] {
        println!("{url}");
        program.run(&["memory", &patient(&url)]);
    }
}
