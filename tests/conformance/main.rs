//! One text of test cases for every backend. A case is a function of a [`Fixture`]; each test below runs all of them
//! against one target and lists those that fail. `CACHETORY_CASES=expiry` runs only the cases with that in their name.

#[path = "../support/mod.rs"]
mod support;

mod arguments;
mod async_calls;
mod async_queues;
mod dummy;
mod expiry;
mod fixture;
mod handles;
mod refusals;
mod removal;
mod sizes;
mod threads;
mod values;
mod wire;

use fixture::{Target, run};
use support::capi::Face;
use support::server::{self, PASSWORD};

// Each target that shares a server has a database of its own there.

#[test]
fn memory() {
    run(&Target::memory("memory://"));
}

#[test]
fn memory_with_a_prefix() {
    run(&Target::memory("memory://?prefix=app:"));
}

#[test]
fn memory_asynchronously() {
    run(&Target::memory("memory://").with(Face::Waited));
}

#[test]
fn redis_over_tcp() {
    let server = server::redis();
    run(&Target::server(server, &server.tcp_url(), 0));
}

#[test]
fn redis_over_tcp_resp3() {
    let server = server::redis();
    let url = format!("{}/1?protocol=3", server.tcp_url());
    run(&Target::server(server, &url, 1).resp3());
}

#[test]
fn redis_over_unix() {
    let server = server::redis();
    run(&Target::server(server, &format!("{}?db=2", server.unix_url()), 2));
}

#[test]
fn redis_over_unix_resp3() {
    let server = server::redis();
    let url = format!("{}?db=3&protocol=3", server.unix_url());
    run(&Target::server(server, &url, 3).resp3());
}

#[test]
fn redis_over_tls() {
    run(&over_tls(0, ""));
}

#[test]
fn redis_over_tls_resp3() {
    run(&over_tls(1, "&protocol=3").resp3());
}

fn over_tls(db: i64, options: &str) -> Target {
    let server = server::with_tls();
    let ca = support::certs::certs().ca.cert.display();
    let url = format!("{}/{db}?ssl_ca_certs={ca}{options}", server.tls_url());
    Target::server(server, &url, db)
}

#[test]
fn redis_with_a_password() {
    let server = server::guarded();
    let url = format!("redis://:{}@127.0.0.1:{}", fixture::encode(PASSWORD), server.port());
    run(&Target::server(server, &url, 0));
}

#[test]
fn redis_with_a_password_resp3() {
    let server = server::guarded();
    let password = fixture::encode(PASSWORD);
    let url = format!("{}?db=1&protocol=3&password={password}", server.unix_url());
    run(&Target::server(server, &url, 1).resp3());
}

/// What a service that shares its server is given: some keys, some commands.
const SERVICE: &str = "on >se/cret resetkeys ~app:* -@all +ping +select +hello +client|setname \
                       +get +mget +set +mset +multi +exec +pexpire +pexpireat +persist +exists \
                       +del +scan +unlink";

#[test]
fn redis_as_an_acl_user() {
    let server = server::guarded();
    allow(server, "service");
    let url = format!("redis://service:se%2Fcret@127.0.0.1:{}/2?prefix=app:", server.port());
    run(&Target::server(server, &url, 2).prefix(b"app:"));
}

#[test]
fn redis_as_an_acl_user_resp3() {
    let server = server::guarded();
    allow(server, "service3");
    let account = "username=service3&password=se%2fcret";
    let url = format!("redis://localhost:{}/3?{account}&prefix=app:&protocol=3", server.port());
    run(&Target::server(server, &url, 3).prefix(b"app:").resp3());
}

fn allow(server: &server::Server, user: &str) {
    let words: Vec<&str> = ["ACL", "SETUSER", user].into_iter().chain(SERVICE.split(' ')).collect();
    let () = server.query(&words);
}

#[test]
fn redis_in_a_database() {
    let server = server::redis();
    // The query beats the path.
    run(&Target::server(server, &format!("{}/5?db=4", server.tcp_url()), 4));
}

#[test]
fn redis_with_a_prefix() {
    let server = server::redis();
    let url = format!("{}/6?prefix=%00*[a]%3f%5c%ff:", server.tcp_url());
    run(&Target::server(server, &url, 6).prefix(b"\0*[a]?\\\xff:"));
}

#[test]
fn redis_over_one_connection() {
    let server = server::redis();
    let url = format!("{}/7?max_connections=1", server.tcp_url());
    run(&Target::server(server, &url, 7));
}

#[test]
fn redis_without_spinning() {
    let server = server::redis();
    run(&Target::server(server, &format!("{}?db=8&spin_us=0", server.unix_url()), 8));
}

#[test]
fn valkey_over_tcp() {
    if let Some(server) = server::valkey() {
        run(&Target::server(server, &server.tcp_url().replace("redis://", "valkey://"), 0));
    }
}

#[test]
fn valkey_over_unix_resp3() {
    if let Some(server) = server::valkey() {
        let url = format!("{}?db=1&protocol=3", server.unix_url());
        run(&Target::server(server, &url, 1).resp3());
    }
}

#[test]
fn valkey_with_a_prefix() {
    if let Some(server) = server::valkey() {
        let url = format!("{}/2?prefix=caf%C3%A9*", server.tcp_url());
        run(&Target::server(server, &url, 2).prefix("café*".as_bytes()));
    }
}

// Each call submitted, and its completion waited for on a queue, or polled for.

#[test]
fn redis_asynchronously() {
    let server = server::redis();
    let url = format!("{}/9", server.tcp_url());
    run(&Target::server(server, &url, 9).with(Face::Waited));
}

#[test]
fn redis_asynchronously_over_one_connection_without_spinning() {
    let server = server::redis();
    let url = format!("{}?db=10&max_connections=1&spin_us=0&protocol=3", server.unix_url());
    run(&Target::server(server, &url, 10).with(Face::Waited).resp3());
}

#[test]
fn redis_asynchronously_over_tls() {
    run(&over_tls(2, "").with(Face::Polled));
}

#[test]
fn redis_asynchronously_with_a_prefix() {
    let server = server::redis();
    let url = format!("{}/11?prefix=app%3A", server.tcp_url());
    run(&Target::server(server, &url, 11).prefix(b"app:").with(Face::Polled));
}

#[test]
fn valkey_asynchronously() {
    if let Some(server) = server::valkey() {
        let url = format!("{}/3", server.tcp_url());
        run(&Target::server(server, &url, 3).with(Face::Waited));
    }
}
