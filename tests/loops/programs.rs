//! Programs of their own: the event loops that others have written, and what only a plain process can show.

use super::support::certs::certs;
use super::support::program::Program;
use super::support::server::{Server, Setup};
use super::support::{note, patient};

fn urls(server: &Server) -> [String; 4] {
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    let one = format!("{}?max_connections=1", server.unix_url());
    [server.tcp_url(), one, tls, "memory://".to_owned()].map(|url| patient(&url))
}

/// The ways of a loop to take what is there: how many at once, and whether it calls until there is nothing.
const WAYS: [[&str; 2]; 3] = [["64", "drains"], ["1", "drains"], ["8", "once"]];

#[track_caller]
fn run_in_each_way(program: &Program, more: &[&str]) {
    let server = Setup::redis().tls(&certs().server, None).start();
    for url in urls(&server) {
        for [capacity, way] in WAYS {
            println!("{url} {capacity} {way} {more:?}");
            program.run(&[&[&url, capacity, way], more].concat());
        }
    }
}

#[test]
fn calls_complete_on_libuv() {
    run_in_each_way(&Program::build_with("loop_uv", &["libuv"]), &[]);
}

#[test]
fn calls_complete_on_libevent_whatever_it_waits_with() {
    let program = Program::build_with("loop_event", &["libevent_core"]);
    for method in ["epoll", "poll", "select"] {
        run_in_each_way(&program, &[method]);
    }
}

#[test]
fn calls_complete_on_the_main_loop_of_glib() {
    run_in_each_way(&Program::build_with("loop_glib", &["glib-2.0"]), &[]);
}

#[test]
fn calls_complete_on_the_network_poller_of_go() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let program = Program::build_go("loop");
    for url in urls(&server) {
        println!("{url}");
        program.run(&[url]);
    }
}

/// Nobody else can: the library's I/O thread is stopped, as a debugger stops one.
#[test]
fn a_loop_does_its_own_io() {
    let server = Setup::redis().tls(&certs().server, None).start();
    let tls = format!("{}?ssl_ca_certs={}", server.tls_url(), certs().ca.cert.display());
    let program = Program::build("loop_driven");
    for url in [server.tcp_url(), server.unix_url(), tls] {
        println!("{url}");
        let printed = program.run(&[patient(&url)]);
        if printed.starts_with("SKIPPED") {
            note(&printed);
        }
    }
}

#[test]
fn a_loop_goes_on_in_a_process_that_has_no_descriptor_left() {
    let server = Setup::redis().start();
    let program = Program::build("loop_limits");
    for url in [server.tcp_url(), server.unix_url()] {
        println!("{url}");
        program.run(&[patient(&url)]);
    }
}

#[test]
fn a_link_that_cannot_be_watched_is_driven_all_the_same() {
    let server = Setup::redis().start();
    let program = Program::build("loop_unwatchable");
    for url in [server.tcp_url(), server.unix_url()] {
        println!("{url}");
        let printed = program.run(&[patient(&url)]);
        if printed.starts_with("SKIPPED") {
            note(&printed);
        }
    }
}

#[test]
fn loops_of_parent_and_child_do_not_touch_each_other() {
    let server = Setup::redis().start();
    let program = Program::build("loop_fork");
    for url in [server.tcp_url(), server.unix_url()] {
        println!("{url}");
        program.run(&[patient(&url), server.port().to_string()]);
    }
}
