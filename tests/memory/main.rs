//! No allocation that fails ends the process that the library lives in, hangs a call, or leaves the library worse than
//! it was. What is tried is told in `tests/c/short_of_memory.c`.
//!
//! Of each scenario's allocations a few are made to fail, spread evenly. With CACHETORY_MEMORY_PLACES=0 in the
//! environment every one is, which takes an hour or two; with another number, so many.
//!
//! What glibc itself dies of is in `tests/c/failing_malloc.h` (name resolution), with the lines of glibc that do it;
//! `tests/c/glibc_dies.c` shows it without the library. Beside that it ends the process where a thread is older than
//! fifteen libraries with thread-locals, loaded with dlopen(3), and first calls into the last of them without memory
//! (`_dl_resize_dtv` in elf/dl-tls.c).

#[path = "../support/mod.rs"]
mod support;

use std::net::TcpListener;
use std::sync::OnceLock;

use support::certs::certs;
use support::note;
use support::program::Program;
use support::server::Setup;

/// All allocations fail that are as large.
const LARGE: &str = "65536";

fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| Program::build("short_of_memory"))
}

fn run(url: &str, face: &str, smallest: &str, row: &str) {
    let places = std::env::var("CACHETORY_MEMORY_PLACES").unwrap_or_else(|_| "32".into());
    note(&program().run(&[url, face, smallest, row, &places]));
}

fn allocations_fail(url: &str) {
    for face in ["sync", "waited", "polled"] {
        for row in ["1", "3", "20", "100", "0"] {
            run(url, face, "0", row);
        }
        for row in ["1", "3", "0"] {
            run(url, face, LARGE, row);
        }
    }
    run(url, "forked", "0", "1");
    run(url, "forked", "0", "0");
    run(url, "thread", "0", "0");
}

#[test]
fn in_the_process() {
    allocations_fail("memory://");
    allocations_fail("memory://?max_bytes=200k");
}

#[test]
fn over_a_unix_socket() {
    let server = Setup::redis().start();
    allocations_fail(&server.unix_url());
}

#[test]
fn over_tcp_and_within_a_prefix() {
    let server = Setup::redis().start();
    let url = format!("redis://localhost:{}?prefix=some%3A&protocol=3", server.port());
    allocations_fail(&url);
}

#[test]
fn over_tls() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let url = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    allocations_fail(&url);
}

#[test]
fn the_address_space_is_used_up() {
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}?socket_timeout=1&fail_fast=false", silent.local_addr().unwrap());
    Program::build("little_address_space").run(&[url]);
}

#[test]
fn the_first_call_of_a_thread_where_nothing_can_be_allocated() {
    let server = Setup::redis().start();
    let program = Program::build("first_call_of_a_thread");
    let library = std::env::current_exe().unwrap().with_file_name("libcachetory.so");
    for url in ["memory://", &server.unix_url()] {
        program.run(&[library.to_str().unwrap(), url]);
    }
}

#[test]
fn the_c_library_dies_where_nothing_is_made_to_fail() {
    let died = Program::build("glibc_dies").run::<&str>(&[]);
    note(&format!("getaddrinfo without memory:\n{died}"));
    if died.is_empty() {
        note("it does not die any more: failing_malloc.h need not spare it");
    }
}
