//! Faults that need a plain C process: its signals, its limits, its way with arguments.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::support::certs::certs;
use super::support::poll;
use super::support::program::Program;
use super::support::proxy::{End, Proxy, Way};
use super::support::scripted::Scripted;
use super::support::server::{Server, Setup, redis};
use super::support::socket::Address;

fn server() -> Server {
    Setup::redis().tls(&certs().server, None).start()
}

/// For a TLS server that is reached by this port.
fn tls_url(port: u16) -> String {
    format!("rediss://localhost:{port}/?ssl_ca_certs={}", certs().ca.cert.display())
}

#[test]
fn arguments() {
    let program = Program::build("arguments");
    // A server cannot be told to expire a key outside its own time, hence a database of its own.
    for url in ["dummy://", "memory://", &format!("{}/9", redis().tcp_url())] {
        println!("{url}");
        program.run(&[url]);
    }
}

#[test]
fn asynchronous() {
    Program::build("async").run::<&str>(&[]);
}

#[test]
fn sigpipe() {
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
            let printed =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| program.run(&[url])));
            over.store(true, Ordering::SeqCst);
            let printed = printed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let counts: Vec<u64> =
                printed.split_whitespace().map(|word| word.parse().unwrap()).collect();
            assert!(counts[0] > 0 && counts[1] > 0, "{} answered, {} failed", counts[0], counts[1]);
        });
    }
}

/// Cuts in the middle of requests and replies, between them, and with more to come.
fn break_often(proxy: &Proxy, over: &AtomicBool) {
    poll("the program has begun", || (proxy.connections() > 0).then_some(()));
    for round in 0..150 {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let end = if round % 2 == 0 { End::Close } else { End::Reset };
        match round % 5 {
            0 => proxy.cut_after(Way::ToServer, round * 997, end),
            1 => proxy.cut_after(Way::ToClient, round, end),
            2 => proxy.cut_after(Way::ToServer, round, end),
            3 => proxy.cut_after(Way::ToClient, 0, end),
            _ => proxy.end_all(end),
        }
        thread::sleep(Duration::from_millis(3));
    }
}

#[test]
fn signals() {
    let server = server();
    let hanging = Scripted::tcp(|peer| peer.hang());
    let program = Program::build("signals");
    let hanging = hanging.url("socket_timeout=0.3");
    for url in [server.tcp_url(), server.unix_url(), tls_url(server.tls_port())] {
        println!("{url}");
        program.run(&[url.as_str(), &hanging]);
    }
    let name = format!("redis://localhost:{}", server.port());
    program.run(&[name.as_str(), &hanging]);
}

#[test]
fn no_descriptors() {
    let server = server();
    let program = Program::build("limits");
    for url in [server.tcp_url(), server.unix_url(), tls_url(server.tls_port())] {
        println!("{url}");
        program.run(&["descriptors", url.as_str()]);
    }
}

#[test]
fn no_memory_for_small_pieces() {
    let program = Program::build("limits");
    for url in ["memory://", "memory://?max_bytes=1g"] {
        for size in ["0", "64", "1000", "4096", "16000"] {
            println!("{url} {size}");
            program.run(&["pieces", url, size]);
        }
    }
}

#[test]
fn no_memory() {
    let server = server();
    let program = Program::build("limits");
    for url in [server.tcp_url(), server.unix_url()] {
        println!("{url}");
        program.run(&["memory", &format!("{url}?socket_timeout=60")]);
    }
}
