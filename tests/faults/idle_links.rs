//! Connections that the server or the network dropped while they were idle are replaced without the caller noticing.

use std::collections::HashSet;
use std::sync::{Barrier, Mutex};
use std::thread;

use super::support::calls::*;
use super::support::capi::*;
use super::support::certs::certs;
use super::support::proxy::{End, Proxy};
use super::support::scripted::{Scripted, echo, name};
use super::support::server::{Server, Setup};
use super::support::socket::Address;
use super::support::{pause, poll};

const OK: Outcome = Ok(CACHETORY_OK);
const LINKS: usize = 8;

fn server() -> Server {
    Setup::redis().tls(&certs().server, None).start()
}

fn caches(server: &Server, face: Face) -> [Cache; 3] {
    let ca = certs().ca.cert.display();
    [server.tcp_url(), server.unix_url(), format!("{}?ssl_ca_certs={ca}", server.tls_url())]
        .map(|url| Cache::must_open(&url).with(face))
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

/// Opens several links: the answers of all are held back while the callers ask.
fn warm_up(server: &Server, cache: &Cache) {
    server.pause();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..LINKS).map(|_| scope.spawn(|| cache.get("k").unwrap())).collect();
        pause::let_calls_gather();
        server.resume();
        calls.into_iter().for_each(|call| drop(call.join().unwrap()));
    });
}

/// Ends the server's normal connections but the one that asks.
fn kill_clients(server: &Server) {
    let mut client = server.client(0);
    // A connection that nobody waited for may still arrive.
    poll("only one client is left", || {
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut client).unwrap();
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).unwrap();
        (list.lines().count() == 1).then_some(())
    });
    pause::let_links_go_idle();
}

#[test]
fn a_link_that_was_killed_while_idle_fails_no_call() {
    for_each_face(|face| {
        let server = server();
        for cache in caches(&server, face) {
            for round in 0..20 {
                let value = format!("{round}");
                kill_clients(&server);
                assert_eq!(cache.set("k", &value), OK);
                kill_clients(&server);
                assert_eq!(cache.get("k"), Ok(Some(value.into_bytes())));
            }
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}");
                assert_eq!(cache.ping(), OK);
                kill_clients(&server);
                assert!(operation(&cache).is_ok());
            }
            assert_eq!(cache.mset(&[("k", "v"), ("l", "w")], 60_000), OK);
            kill_clients(&server);
            assert_eq!(cache.mdelete(&["k", "l", "m"]), Ok(2));
        }
    });
}

#[test]
fn many_links_that_were_killed_at_once_fail_no_call() {
    for_each_face(|face| {
        let server = server();
        for cache in caches(&server, face) {
            for _ in 0..5 {
                warm_up(&server, &cache);
                kill_clients(&server);
                all_at_once(&cache, |cache, number| {
                    assert_eq!(cache.set(format!("k{number}"), "v"), OK);
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
                    assert_eq!(cache.set(format!("k{number}"), "v"), OK);
                }
            }
        }
    });
}

#[test]
fn a_link_that_the_servers_idle_timeout_dropped_fails_no_call() {
    for_each_face(|face| {
        let server = Setup::redis().args(["--timeout", "1"]).start();
        for url in [server.tcp_url(), server.unix_url()] {
            let cache = Cache::must_open(&url).with(face);
            for value in ["1", "2"] {
                warm_up(&server, &cache);
                poll("the server has dropped its clients", || {
                    let list: String = server.query(&["CLIENT", "LIST"]);
                    (list.lines().count() == 1).then_some(())
                });
                assert_eq!(cache.set("k", value), OK);
                assert_eq!(cache.get("k"), Ok(Some(value.into())));
            }
        }
    });
}

#[test]
fn a_server_that_was_restarted_fails_no_call() {
    for_each_face(|face| {
        let server = server();
        let caches = caches(&server, face);
        for _ in 0..2 {
            caches.iter().for_each(|cache| warm_up(&server, cache));
            server.restart();
            caches.iter().for_each(|cache| assert_eq!(cache.set("k", "v"), OK));
            server.restart();
            caches.iter().for_each(|cache| assert_eq!(cache.get("k"), Ok(None)));
        }
    });
}

#[test]
fn a_server_that_was_away_is_found_again() {
    for_each_face(|face| {
        let server = server();
        let caches = caches(&server, face);
        caches.iter().for_each(|cache| warm_up(&server, cache));
        server.kill();
        for cache in &caches {
            for (what, operation) in READS.iter().chain(&WRITES) {
                println!("{what}");
                failed(operation(cache), CACHETORY_ERR_CONNECT, RETRYABLE);
            }
        }
        server.restart();
        for cache in &caches {
            assert_eq!(cache.set("k", "v"), OK);
            assert_eq!(cache.get("k"), Ok(Some(b"v".to_vec())));
        }
    });
}

/// Threads that call without a pause, and what they have seen.
#[derive(Default)]
struct Callers {
    have_called: Mutex<HashSet<usize>>,
    have_failed: Mutex<HashSet<usize>>,
}

impl Callers {
    /// Calls until a write has failed, and then one has succeeded.
    fn call(&self, cache: &Cache, thread: usize) {
        let key = format!("k{thread}");
        let mut has_failed = false;
        for round in 0.. {
            let wrote = cache.set(&key, format!("{round}"));
            match &wrote {
                Ok(status) => {
                    assert_eq!(*status, CACHETORY_OK);
                    self.have_called.lock().unwrap().insert(thread);
                }
                Err(failure) => {
                    has_failed = true;
                    self.have_failed.lock().unwrap().insert(thread);
                    let io = failure.status == CACHETORY_ERR_IO;
                    assert!(io || failure.status == CACHETORY_ERR_CONNECT, "{failure:?}");
                    assert!(failure.is_retryable(), "{failure:?}");
                    assert_eq!(failure.is_maybe_applied(), io, "{failure:?}");
                }
            }
            if let Err(failure) = cache.get(&key) {
                let io = failure.status == CACHETORY_ERR_IO;
                assert!(io || failure.status == CACHETORY_ERR_CONNECT, "{failure:?}");
                assert_eq!(failure.flags, RETRYABLE, "{failure:?}");
            }
            if has_failed && wrote.is_ok() {
                return;
            }
        }
    }
}

#[test]
fn a_server_killed_under_many_callers_is_found_again_by_each() {
    for_each_face(|face| {
        let server = server();
        for cache in caches(&server, face) {
            let callers = Callers::default();
            thread::scope(|scope| {
                for thread in 0..LINKS {
                    let (cache, callers) = (&cache, &callers);
                    scope.spawn(move || callers.call(cache, thread));
                }
                let all = |who: &Mutex<HashSet<usize>>| {
                    poll("each of the callers", || {
                        (who.lock().unwrap().len() == LINKS).then_some(())
                    });
                };
                all(&callers.have_called);
                server.kill();
                all(&callers.have_failed);
                server.restart();
            });
        }
    });
}

#[test]
fn a_network_that_ends_idle_links_fails_no_call() {
    for_each_face(|face| {
        let server = Setup::redis().start();
        for proxy in
            [Proxy::to(Address::Tcp(server.port())), Proxy::unix_to(Address::Unix(server.socket()))]
        {
            let cache = Cache::must_open(&proxy.address().url("")).with(face);
            for end in [End::Reset, End::Close].repeat(5) {
                assert_eq!(cache.set("k", "v"), OK);
                proxy.end_all(end);
                pause::let_links_go_idle();
                assert_eq!(cache.set("k", "w"), OK);
                proxy.end_all(end);
                // A read need not wait for the end to have come through.
                assert_eq!(cache.get("k"), Ok(Some(b"w".to_vec())));
            }
        }
    });
}

#[test]
fn a_health_check_finds_a_link_that_is_dead() {
    for_each_face(|face| {
        let server = Scripted::tcp(|peer| {
            let mut was_used = false;
            while let Some(command) = peer.request() {
                if name(&command) == "PING" && was_used && peer.number == 0 {
                    return peer.close();
                }
                was_used |= name(&command) == "SET";
                peer.send(echo(&command));
            }
        });
        let options = format!("{}&max_connections=1", pause::HEALTH_CHECK);
        let cache = Cache::must_open(&server.url(&options)).with(face);
        assert_eq!(cache.set("k", "v"), OK);
        pause::let_links_need_a_ping();
        assert_eq!(cache.set("k", "v"), OK);
        let mut seen: Vec<_> = server
            .requests()
            .iter()
            .map(|request| (request.connection, request.name()))
            // On a busy machine a link may be asked before its first use, too.
            .skip_while(|(_, name)| name == "PING")
            .collect();
        seen.retain(|(connection, name)| *connection == 0 || name != "PING");
        let expected = [(0, "SET"), (0, "PING"), (1, "SET")];
        assert_eq!(seen, expected.map(|(connection, name)| (connection, name.to_owned())));
    });
}

/// The link hangs when it is asked; nothing but the question is ever sent on it.
#[test]
fn a_health_check_that_hangs_leaves_time_for_a_new_link() {
    thread::scope(|scope| {
        for face in FACES {
            for (what, operation) in READS.iter().chain(&WRITES) {
                let thread = thread::Builder::new().name(format!("{face:?}, {what}"));
                thread
                    .spawn_scoped(scope, move || hang_at_the_health_check(face, operation))
                    .unwrap();
            }
        }
    });
}

fn hang_at_the_health_check(face: Face, operation: &fn(&Cache) -> Outcome) {
    let server = Scripted::tcp(|peer| {
        let mut was_used = false;
        while let Some(command) = peer.request() {
            if name(&command) == "PING" && was_used && peer.number == 0 {
                return peer.hang();
            }
            was_used |= name(&command) == "GET";
            peer.send(echo(&command));
        }
    });
    // Half of the deadline passes at the link that hangs, and the rest is enough for any machine.
    let options = format!("{}&socket_timeout=12&max_connections=1", pause::HEALTH_CHECK);
    let cache = Cache::must_open(&server.url(&options)).with(face);
    assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())));
    pause::let_links_need_a_ping();
    assert_eq!(operation(&cache), OK);
    let requests = server.requests();
    let on_first = requests.iter().filter(|request| request.connection == 0);
    let names: Vec<_> =
        on_first.map(|request| request.name()).skip_while(|name| name == "PING").collect();
    assert_eq!(names, ["GET", "PING"]);
    assert_eq!(server.connections(), 2);
}

#[test]
fn any_answer_to_a_health_check_means_alive() {
    for_each_face(|face| {
        for answer in
            ["+PONG\r\n", "-LOADING Redis is loading\r\n", "-NOPERM no ping\r\n", ":1\r\n"]
        {
            let server = Scripted::tcp(move |peer| {
                peer.serve(|command| match name(command).as_str() {
                    "PING" => answer.into(),
                    _ => echo(command),
                });
            });
            let options = format!("{}&max_connections=1", pause::HEALTH_CHECK);
            let cache = Cache::must_open(&server.url(&options)).with(face);
            assert_eq!(cache.set("k", "v"), OK);
            let before = server.count("PING");
            pause::let_links_need_a_ping();
            assert_eq!(cache.get("k"), Ok(Some(b"k".to_vec())), "{answer}");
            assert!(server.count("PING") > before, "{answer}");
            assert_eq!(server.connections(), 1, "{answer}");
        }
    });
}

#[test]
fn a_password_that_changes_under_a_live_link_is_refused_when_it_is_replaced() {
    for_each_face(|face| {
        let server = Setup::redis().password("old").start();
        let url = format!("redis://:old@127.0.0.1:{}", server.port());
        let cache = Cache::must_open(&url).with(face);
        assert_eq!(cache.set("k", "v"), OK);
        let mut client = server.client(0);
        redis::cmd("CONFIG").arg(&["SET", "requirepass", "new"]).exec(&mut client).unwrap();
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec(&mut client).unwrap();
        pause::let_links_go_idle();
        failed(cache.set("k", "v"), CACHETORY_ERR_AUTH, 0);
        redis::cmd("CONFIG").arg(&["SET", "requirepass", "old"]).exec(&mut client).unwrap();
        assert_eq!(cache.get("k"), Ok(Some(b"v".to_vec())));
    });
}

/// So many of this process's sockets were closed by the server's side and not by this one.
fn half_open(port: u16) -> usize {
    const CLOSE_WAIT: &str = "08";
    let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let is_it = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next().is_some_and(|peer| peer.ends_with(&format!(":{port:04X}")))
            && words.next() == Some(CLOSE_WAIT)
    };
    sockets.lines().filter(is_it).count()
}

#[test]
fn links_that_the_server_closed_are_closed_here_where_nobody_makes_a_call() {
    let server = Scripted::tcp(|peer| {
        peer.serve(echo);
        // The kernel would reset what nobody has a hand on any more.
        peer.hang();
    });
    let Address::Tcp(port) = *server.address() else { panic!("TCP was asked for") };
    for_each_face(|face| {
        let before = server.connections();
        let cache = Cache::must_open(&server.url("")).with(face);
        poll("several connections", || {
            all_at_once(&cache, |cache, _| drop(cache.get("k").unwrap()));
            (server.connections() > before + 1).then_some(())
        });
        server.hang_up();
        poll("none stands half open", || (half_open(port) == 0).then_some(()));
    });
}
