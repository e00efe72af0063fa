//! Connections that the server or the network dropped while they were idle are replaced without the caller noticing.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::failed;
use super::retries::good;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::poll;
use super::support::proxy::{End, Proxy, Way};
use super::support::scripted::{Scripted, name};
use super::support::server::{Server, Setup};
use super::support::socket::Address;

const LINKS: usize = 8;

/// A connection counts as idle, and is looked at before a write goes out on it, when it was not used for a while.
pub const A_WHILE: Duration = Duration::from_millis(20);

fn server() -> Server {
    Setup::redis().tls(&certs().server, None).start()
}

fn caches(server: &Server) -> [Cache; 3] {
    let ca = certs().ca.cert.display();
    [server.tcp_url(), server.unix_url(), format!("{}?ssl_ca_certs={ca}", server.tls_url())]
        .map(|url| Cache::must_open(&url))
}

/// So many threads make a call at the same moment.
fn all_at_once(cache: &Cache, call: impl Fn(&Cache, usize) + Sync) {
    let start = Barrier::new(LINKS);
    thread::scope(|scope| {
        for number in 0..LINKS {
            let (start, call) = (&start, &call);
            scope.spawn(move || {
                start.wait();
                call(cache, number);
            });
        }
    });
}

/// Opens many links: the answers of all are held back until each caller has asked.
fn warm_up(server: &Server, cache: &Cache) {
    server.pause();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..LINKS).map(|_| scope.spawn(|| cache.get("k").unwrap())).collect();
        thread::sleep(Duration::from_millis(50));
        server.resume();
        calls.into_iter().for_each(|call| drop(call.join().unwrap()));
    });
}

/// Ends the server's normal connections but the one that asks.
fn kill_clients(server: &Server) {
    let mut client = server.client(0);
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut client).unwrap();
    poll("only one client is left", || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
        (list.lines().count() == 1).then_some(())
    });
    thread::sleep(A_WHILE);
}

#[test]
fn one_that_was_killed() {
    let server = server();
    for cache in caches(&server) {
        for round in 0..20 {
            let value = format!("{round}");
            kill_clients(&server);
            assert_eq!(cache.set("k", &value), Ok(CACHETORY_OK));
            kill_clients(&server);
            assert_eq!(cache.get("k"), Ok(Some(value.into_bytes())));
        }
        kill_clients(&server);
        assert_eq!(cache.mset(&[("k", "v"), ("l", "w")], 60_000), Ok(CACHETORY_OK));
        kill_clients(&server);
        assert_eq!(cache.mdelete(&["k", "l", "m"]), Ok(2));
        kill_clients(&server);
        assert_eq!(cache.clear(), Ok(CACHETORY_OK));
    }
}

#[test]
fn many_that_were_killed_at_once() {
    let server = server();
    for cache in caches(&server) {
        for _ in 0..5 {
            warm_up(&server, &cache);
            kill_clients(&server);
            all_at_once(&cache, |cache, number| {
                assert_eq!(cache.set(format!("k{number}"), "v"), Ok(CACHETORY_OK));
            });
            warm_up(&server, &cache);
            kill_clients(&server);
            all_at_once(&cache, |cache, number| {
                assert_eq!(cache.get(format!("k{number}")), Ok(Some(b"v".to_vec())));
            });
            // And one after the other, each on whatever link it is given.
            warm_up(&server, &cache);
            kill_clients(&server);
            for number in 0..2 * LINKS {
                assert_eq!(cache.set(format!("k{number}"), "v"), Ok(CACHETORY_OK));
            }
        }
    }
}

#[test]
fn the_servers_own_idle_timeout() {
    let server = Setup::redis().args(["--timeout", "1"]).start();
    let cache = Cache::must_open(&server.tcp_url());
    for value in ["1", "2"] {
        warm_up(&server, &cache);
        poll("the server has dropped its clients", || {
            let list: String = server.query(&["CLIENT", "LIST"]);
            (list.lines().count() == 1).then_some(())
        });
        assert_eq!(cache.set("k", value), Ok(CACHETORY_OK));
        assert_eq!(cache.get("k"), Ok(Some(value.into())));
    }
}

#[test]
fn a_restart() {
    let server = server();
    let caches = caches(&server);
    for _ in 0..2 {
        caches.iter().for_each(|cache| warm_up(&server, cache));
        server.restart();
        for cache in &caches {
            assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
        }
        server.restart();
        for cache in &caches {
            assert_eq!(cache.get("k"), Ok(None));
        }
    }
}

#[test]
fn a_server_that_is_away_for_a_while() {
    let server = server();
    let caches = caches(&server);
    caches.iter().for_each(|cache| warm_up(&server, cache));
    server.kill();
    for cache in &caches {
        failed(cache.set("k", "v"), CACHETORY_ERR_CONNECT, RETRYABLE);
        failed(cache.get("k"), CACHETORY_ERR_CONNECT, RETRYABLE);
        failed(cache.ping(), CACHETORY_ERR_CONNECT, RETRYABLE);
    }
    server.restart();
    for cache in &caches {
        assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
        assert_eq!(cache.get("k"), Ok(Some(b"v".to_vec())));
    }
}

#[test]
fn a_server_killed_under_many_callers() {
    let server = server();
    for cache in caches(&server) {
        thread::scope(|scope| {
            for thread in 0..LINKS {
                let cache = &cache;
                scope.spawn(move || {
                    let key = format!("k{thread}");
                    let mut seen = false;
                    for round in 0.. {
                        let wrote = cache.set(&key, format!("{round}"));
                        match &wrote {
                            Ok(status) => assert_eq!(*status, CACHETORY_OK),
                            Err(failure) => {
                                seen = true;
                                let io = failure.status == CACHETORY_ERR_IO;
                                assert!(
                                    io || failure.status == CACHETORY_ERR_CONNECT,
                                    "{failure:?}"
                                );
                                assert!(failure.is_retryable(), "{failure:?}");
                                assert_eq!(failure.is_maybe_applied(), io, "{failure:?}");
                            }
                        }
                        if let Err(failure) = cache.get(&key) {
                            let io = failure.status == CACHETORY_ERR_IO;
                            assert!(io || failure.status == CACHETORY_ERR_CONNECT, "{failure:?}");
                            assert_eq!(failure.flags, RETRYABLE, "{failure:?}");
                        }
                        if seen && wrote.is_ok() {
                            return;
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(100));
            server.kill();
            thread::sleep(Duration::from_millis(300));
            server.restart();
        });
    }
}

#[test]
fn a_network_that_resets() {
    let server = Setup::redis().start();
    for proxy in
        [Proxy::to(Address::Tcp(server.port())), Proxy::unix_to(Address::Unix(server.socket()))]
    {
        let cache = Cache::must_open(&proxy.address().url(""));
        for end in [End::Reset, End::Close].repeat(5) {
            assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
            proxy.end_all(end);
            thread::sleep(A_WHILE);
            assert_eq!(cache.set("k", "w"), Ok(CACHETORY_OK));
            proxy.end_all(end);
            assert_eq!(cache.get("k"), Ok(Some(b"w".to_vec())));
        }
    }
}

#[test]
fn cuts_at_every_byte_of_a_reply() {
    let server = Setup::redis().start();
    let proxy = Proxy::to(Address::Tcp(server.port()));
    let cache = Cache::must_open(&proxy.address().url(""));
    assert_eq!(cache.set("k", "value"), Ok(CACHETORY_OK));
    // $5\r\nvalue\r\n
    for bytes in 0..11 {
        proxy.cut_after(Way::ToClient, bytes, if bytes % 2 == 0 { End::Close } else { End::Reset });
        assert_eq!(cache.get("k"), Ok(Some(b"value".to_vec())), "cut after {bytes} bytes");
        assert!(!proxy.cut_pending(Way::ToClient));
    }
    // +OK\r\n
    for bytes in 0..5 {
        proxy.cut_after(Way::ToClient, bytes, End::Close);
        let outcome = cache.set("k", "value");
        failed(outcome, CACHETORY_ERR_IO, RETRYABLE | MAYBE_APPLIED);
    }
}

#[test]
fn a_health_check_finds_a_link_dead() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.request() {
            if name(&command) == "PING" && peer.number == 0 {
                return peer.close();
            }
            peer.send(good(&command));
        }
    });
    let cache = Cache::must_open(&server.url("health_check_interval=0.05"));
    assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
    let requests = server.requests();
    let seen: Vec<_> =
        requests.iter().map(|request| (request.connection, request.name())).collect();
    let expected = [(0, "SET"), (0, "PING"), (1, "SET")];
    assert_eq!(seen, expected.map(|(connection, name)| (connection, name.to_owned())));
}

#[test]
fn any_answer_to_a_health_check_means_alive() {
    for answer in ["+PONG\r\n", "-LOADING Redis is loading\r\n", "-NOPERM no ping\r\n", ":1\r\n"] {
        let server = Scripted::tcp(move |peer| {
            peer.serve(|command| match name(command).as_str() {
                "PING" => answer.into(),
                _ => good(command),
            });
        });
        let cache = Cache::must_open(&server.url("health_check_interval=0.05"));
        assert_eq!(cache.set("k", "v"), Ok(CACHETORY_OK));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(cache.get("k"), Ok(Some(b"v".to_vec())), "{answer}");
        assert_eq!((server.count("PING"), server.connections()), (1, 1), "{answer}");
    }
}
