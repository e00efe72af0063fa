//! After a fork, parent and child both go on, and never share a connection.

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::certs::certs;
use support::gates::Gates;
use support::patient;
use support::program::Program;
use support::proxy::{Proxy, Way};
use support::scripted::{Command, Peer, Scripted, array, bulk, echo, name};
use support::server::Setup;
use support::socket::Address;

type Store = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// A small Redis that never answers about the key `hang`.
fn keep(store: &Store, peer: &mut Peer) {
    while let Some(command) = peer.request() {
        if command.get(1).is_some_and(|key| key == b"hang") {
            return peer.swallow();
        }
        peer.send(answer(store, &command));
    }
}

fn answer(store: &Store, command: &Command) -> Vec<u8> {
    let mut store = store.lock().unwrap();
    let get = |key: &Vec<u8>| store.get(key).map_or_else(|| b"$-1\r\n".to_vec(), bulk);
    match name(command).as_str() {
        "SET" => {
            store.insert(command[1].clone(), command[2].clone());
            b"+OK\r\n".to_vec()
        }
        "GET" => get(&command[1]),
        "MGET" => array(&command[1..].iter().map(get).collect::<Vec<_>>()),
        _ => b"+PONG\r\n".to_vec(),
    }
}

/// The ways in which a program makes its calls.
const FACES: [&str; 3] = ["synchronous", "waited", "polled"];

fn of_one(url: &str) -> String {
    let and = if url.contains('?') { '&' } else { '?' };
    format!("{url}{and}max_connections=1")
}

#[test]
fn each_process_has_connections_of_its_own() {
    let program = Program::build("fork");
    for face in FACES {
        for mode in ["family", "load"] {
            let store = Store::default();
            let kept = Arc::clone(&store);
            let server = Scripted::tcp(move |peer| keep(&kept, peer));
            let url = patient(&server.url(""));
            program.run(&[face, mode, &url, &of_one(&url)]);
            assert_apart(&server, mode);
        }
    }
}

fn assert_apart(server: &Scripted, mode: &str) {
    let mut owners = HashMap::new();
    for request in server.requests() {
        let key = String::from_utf8(request.command[1].clone()).unwrap();
        let owner = key.split(':').next().unwrap().to_owned();
        // The threads of the parent share theirs.
        let owner =
            if owner == "hang" || owner.starts_with("parent") { "parent".into() } else { owner };
        let first = owners.entry(request.connection).or_insert_with(|| owner.clone());
        assert_eq!(*first, owner, "connection {} served two processes", request.connection);
    }
    let expected =
        if mode == "family" { &["parent", "child", "grandchild"][..] } else { &["parent"] };
    for owner in expected {
        assert!(owners.values().any(|seen| seen == owner), "{owner}: {owners:?}");
    }
}

#[test]
fn calls_in_flight_across_a_fork_stay_the_parents() {
    let program = Program::build("fork");
    for face in FACES {
        let gates = Gates::default();
        let gate = gates.clone();
        // What the parent has in flight is answered when it says so.
        let server = Scripted::tcp(move |peer| {
            while let Some(command) = peer.request() {
                if name(&command) == "SET" && command[1] == b"open" {
                    gate.open(1);
                }
                peer.hang_until(|| gate.is_open_for(&command));
                if !peer.send(echo(&command)) {
                    return;
                }
            }
        });
        let url = patient(&server.url(""));
        program.run(&[face, "held", &url, &of_one(&url)]);
        assert!(server.count("GET") > 0);
    }
}

#[test]
fn parent_and_child_both_go_on_with_a_real_server() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let program = Program::build("fork");
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    // A child does not inherit what a single link was in the middle of either.
    let one = format!("{}?max_connections=1", server.tcp_url());
    let name = format!("redis://localhost:{}", server.port());
    for face in FACES {
        for url in [&server.tcp_url(), &server.unix_url(), &tls, &one, &name] {
            println!("{face} {url}");
            let url = patient(url);
            program.run(&[face, "family", &url, &of_one(&url)]);
            program.run(&[face, "load", &url, &of_one(&url)]);
        }
    }
}

/// A daemon closes what it inherited, and opens files of its own.
#[test]
fn nothing_of_a_child_is_taken_for_what_it_inherited() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let program = Program::build("daemon");
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    for url in [server.tcp_url(), server.unix_url(), tls] {
        let url = patient(&url);
        for face in FACES {
            // Past pthread_atfork(3) the C library's own locks are as other threads left them: there must be none.
            let is_alone = face == "synchronous";
            let makers = if is_alone { &["fork", "_Fork", "clone"][..] } else { &["fork"] };
            for way in ["all", "one", "unused", "opens", "grandchild"] {
                for maker in makers {
                    println!("{maker} {way} {face} {url}");
                    program.run(&[maker, way, face, &url]);
                }
            }
            println!("fork busy {face} {url}");
            program.run(&["fork", "busy", face, &url]);
        }
    }
}

/// Nor where other threads of the parent had its links, which are docked while they sleep for a server that is far
/// away.
#[test]
fn nothing_of_a_child_is_taken_for_what_threads_of_its_parent_had() {
    let server = Setup::redis().start();
    let proxy = Proxy::to(Address::Tcp(server.port()));
    for way in [Way::ToServer, Way::ToClient] {
        proxy.delay(way, Duration::from_millis(1));
    }
    let program = Program::build("daemon");
    for options in ["max_connections=1", "max_connections=2&spin_us=0", "max_connections=64"] {
        let url = patient(&proxy.address().url(options));
        for face in FACES {
            program.run(&["fork", "busy", face, &url]);
        }
    }
}

#[test]
fn nothing_of_the_librarys_is_standard_input_output_or_error() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let program = Program::build("low_descriptors");
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    for url in [&server.tcp_url(), &server.unix_url(), &tls, "memory://"] {
        for closed in [&["0"][..], &["1"], &["0", "1"], &["0", "1", "2"]] {
            let url = patient(url);
            program.run(&[closed, &[url.as_str()]].concat());
        }
    }
}
