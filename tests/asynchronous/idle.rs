//! Links that died while they were idle are replaced without the caller noticing.

use std::thread;
use std::time::Duration;

use super::support::capi::*;
use super::support::certs::certs;
use super::support::poll;
use super::support::proxy::{End, Proxy};
use super::support::queue::*;
use super::support::scripted::{Scripted, name};
use super::support::server::{Server, Setup};
use super::support::socket::Address;
use super::{A_WHILE, Gates, OK, READS, WRITES, all_succeed, echo, is_value, submit_all};

fn caches(server: &Server) -> [Cache; 3] {
    let ca = certs().ca.cert.display();
    [server.tcp_url(), server.unix_url(), format!("{}?ssl_ca_certs={ca}", server.tls_url())]
        .map(|url| Cache::must_open(&url))
}

/// Ends the server's connections but that of the one that asks.
fn kill_clients(server: &Server) {
    let mut client = server.client(0);
    // One that nobody waited for may still arrive.
    poll("only one client is left", || {
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut client).unwrap();
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
        (list.lines().count() == 1).then_some(())
    });
    thread::sleep(A_WHILE);
}

#[test]
fn links_that_were_killed() {
    let server = Setup::redis().tls(&certs().server, None).start();
    for cache in caches(&server) {
        let queue = Queue::open();
        for (what, submit) in READS.iter().chain(&WRITES) {
            println!("{what}");
            assert_eq!(cache.to(&queue).ping(1), OK);
            assert_eq!(queue.next().outcome(), OK);
            kill_clients(&server);
            assert_eq!(submit(cache.to(&queue), 2), OK);
            assert!(queue.next().outcome().is_ok());
        }
        for _ in 0..10 {
            // Many links at once.
            all_succeed(&cache);
            kill_clients(&server);
            for completion in submit_all(&cache, &queue, &WRITES) {
                assert!(completion.outcome().is_ok(), "{:?}", completion.outcome());
            }
        }
    }
}

#[test]
fn the_servers_own_idle_timeout() {
    let server = Setup::redis().start();
    for cache in caches_without_tls(&server) {
        let queue = Queue::open();
        let to = cache.to(&queue);
        server.query::<()>(&["CONFIG", "SET", "timeout", "1"]);
        assert_eq!(to.ping(1), OK);
        assert_eq!(queue.next().outcome(), OK);
        poll("the server has dropped its clients", || {
            let list: String = server.query(&["CLIENT", "LIST"]);
            (list.lines().count() == 1).then_some(())
        });
        assert_eq!(to.set(2, "k", "v", NO_EXPIRY, 0), OK);
        assert_eq!(queue.next().outcome(), OK);
        server.query::<()>(&["CONFIG", "SET", "timeout", "0"]);
    }
}

fn caches_without_tls(server: &Server) -> [Cache; 2] {
    [server.tcp_url(), server.unix_url()].map(|url| Cache::must_open(&url))
}

#[test]
fn a_restart() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let caches = caches(&server);
    for _ in 0..2 {
        caches.iter().for_each(all_succeed);
        server.restart();
        caches.iter().for_each(all_succeed);
    }
}

#[test]
fn a_network_that_resets() {
    let server = Setup::redis().start();
    for proxy in
        [Proxy::to(Address::Tcp(server.port())), Proxy::unix_to(Address::Unix(server.socket()))]
    {
        let (cache, queue) = (Cache::must_open(&proxy.address().url("")), Queue::open());
        let to = cache.to(&queue);
        for end in [End::Reset, End::Close].repeat(5) {
            assert_eq!(to.set(1, "k", "w", NO_EXPIRY, 0), OK);
            assert_eq!(queue.next().outcome(), OK);
            proxy.end_all(end);
            // A read need not wait for the end to have come through.
            assert_eq!(to.get(2, "k"), OK);
            is_value(queue.next(), "w");
            proxy.end_all(end);
            thread::sleep(A_WHILE);
        }
    }
}

#[test]
fn a_health_check_finds_a_link_dead() {
    let server = Scripted::tcp(|peer| {
        while let Some(command) = peer.request() {
            if name(&command) == "PING" && peer.number == 0 {
                return peer.close();
            }
            peer.send(echo(&command));
        }
    });
    let url = server.url("health_check_interval=0.05");
    let (cache, queue) = (Cache::must_open(&url), Queue::open());
    let to = cache.to(&queue);
    assert_eq!(to.set(1, "k", "v", NO_EXPIRY, 0), OK);
    assert_eq!(queue.next().outcome(), OK);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(to.set(2, "k", "v", NO_EXPIRY, 0), OK);
    assert_eq!(queue.next().outcome(), OK);
    let requests = server.requests();
    let seen: Vec<_> =
        requests.iter().map(|request| (request.connection, request.name())).collect();
    let expected = [(0, "SET"), (0, "PING"), (1, "SET")];
    assert_eq!(seen, expected.map(|(connection, name)| (connection, name.to_owned())));
}

/// The link hangs when it is asked; nothing but the question is ever sent on it.
#[test]
fn a_health_check_that_hangs() {
    for (what, submit) in READS.iter().chain(&WRITES) {
        println!("{what}");
        let gates = Gates::default();
        let gate = gates.clone();
        let server = Scripted::tcp(move |peer| {
            while let Some(command) = peer.request() {
                if name(&command) == "PING" && peer.number == 0 {
                    return peer.hang_until(|| gate.is_open_for(&vec![vec![], b"held:1".to_vec()]));
                }
                peer.send(echo(&command));
            }
        });
        let url = server.url("health_check_interval=0.05&socket_timeout=2");
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        let to = cache.to(&queue);
        assert_eq!(to.get(1, "k"), OK);
        is_value(queue.next(), "k");
        thread::sleep(Duration::from_millis(100));
        assert_eq!(submit(to, 2), OK);
        let completion = queue.next();
        assert!(completion.outcome().is_ok(), "{:?}", completion.outcome());
        gates.open(1);
        let requests = server.requests();
        let on_first = requests.iter().filter(|request| request.connection == 0);
        let names: Vec<_> = on_first.map(super::support::scripted::Request::name).collect();
        assert_eq!(names, ["GET", "PING"]);
    }
}

#[test]
fn any_answer_to_a_health_check_means_alive() {
    for answer in ["+PONG\r\n", "-LOADING Redis is loading\r\n", "-NOPERM no ping\r\n"] {
        let server = Scripted::tcp(move |peer| {
            peer.serve(|command| match name(command).as_str() {
                "PING" => answer.into(),
                _ => echo(command),
            });
        });
        let url = server.url("health_check_interval=0.05");
        let (cache, queue) = (Cache::must_open(&url), Queue::open());
        assert_eq!(cache.to(&queue).get(1, "k"), OK);
        is_value(queue.next(), "k");
        thread::sleep(Duration::from_millis(100));
        assert_eq!(cache.to(&queue).get(2, "k"), OK);
        is_value(queue.next(), "k");
        assert_eq!((server.count("PING"), server.connections()), (1, 1), "{answer}");
    }
}
