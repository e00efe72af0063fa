//! What a peer's answers may cost: no more memory than it has sent bytes, and next to none where no answer is so large.

use super::support::capi::*;
use super::support::patient;
use super::support::program::Program;
use super::support::scripted::{Scripted, name};

/// What a hostile peer sends of anything, if it is taken.
const MUCH: usize = 16 << 20;
/// What a call may take beside what it keeps, in KiB.
const LITTLE: i64 = 8 << 10;

/// An answer: what it begins with, and what follows again and again.
type Flood = (&'static str, &'static str);

/// No answer to anything.
const FLOODS: [Flood; 30] = [
    ("*60000000\r\n", "_\r\n"),
    ("*60000000\r\n", "$-1\r\n"),
    ("*60000000\r\n", "+OK\r\n"),
    ("~60000000\r\n", "_\r\n"),
    ("%30000000\r\n", "+a\r\n"),
    ("*2\r\n*60000000\r\n", "_\r\n"),
    ("*2\r\n|60000000\r\n", "_\r\n"),
    ("*2\r\n|1\r\n$536870912\r\n", "x"),
    ("*2\r\n-", "x"),
    ("*2\r\n!536870912\r\n", "x"),
    ("*2\r\n+", "x"),
    ("*2\r\n$1\r\n0\r\n*60000000\r\n", "_\r\n"),
    ("*2\r\n$1\r\n0\r\n*60000000\r\n", "-not a key, but an error in the place of one\r\n"),
    ("*2\r\n$", "1"),
    ("!1000000000\r\n", "x"),
    ("!536870912\r\n", "x"),
    ("=1000000000\r\n", "x"),
    ("$?\r\n", ";4\r\nabcd\r\n"),
    ("*?\r\n", "_\r\n"),
    ("-", "x"),
    ("+", "x"),
    ("(", "1"),
    (",", "1"),
    (":", "1"),
    ("|60000000\r\n", "_\r\n"),
    (">60000000\r\n", "_\r\n"),
    (">1\r\n$536870912\r\n", "x"),
    ("", "|1\r\n+an attribute\r\n+of a reply, which never comes\r\n"),
    ("", "*1\r\n"),
    ("", "|1\r\n"),
];

/// Answers to some calls, which may take as much as has arrived.
const ANSWERS: [(Flood, &str); 5] = [
    (("$536870912\r\n", "x"), "get"),
    (("=536870912\r\n", "x"), "get"),
    (("*2\r\n$536870912\r\n", "x"), "mget"),
    (("*2\r\n$1\r\n0\r\n*60000000\r\n", "$1\r\np\r\n"), "clear"),
    (("*2\r\n$1\r\n0\r\n*1\r\n$536870000\r\n", "p"), "clear"),
];

/// Answers `greeted` commands of a handshake well, and everything after as told, but for the way to EXEC. Then it goes.
fn flood((start, piece): Flood, greeted: usize) -> Scripted {
    let pieces = piece.repeat(1 + (256 << 10) / piece.len());
    Scripted::unix(move |peer| {
        let mut in_transaction = false;
        let mut answered = 0;
        while let Some(command) = peer.command() {
            let yes = match name(&command).as_str() {
                "AUTH" | "SELECT" if answered < greeted => "+OK\r\n",
                "MULTI" => {
                    in_transaction = true;
                    "+OK\r\n"
                }
                "SET" if in_transaction => "+QUEUED\r\n",
                _ => break,
            };
            answered += 1;
            peer.send(yes);
        }
        let mut left = MUCH;
        let mut goes_on = peer.send(start);
        while goes_on && left > 0 {
            goes_on = peer.send(&pieces);
            left = left.saturating_sub(pieces.len());
        }
    })
}

/// Runs every call; none may succeed, and each take no more than `most` says.
fn run(program: &Program, server: &Scripted, options: &str, most: impl Fn(&str) -> i64) {
    let lines = program.run(&[patient(&server.url(options))]);
    assert_eq!(lines.lines().count(), 20);
    for line in lines.lines() {
        let [name, status, grown] = line.split(' ').collect::<Vec<_>>()[..] else { panic!() };
        let expected = [CACHETORY_ERR_PROTOCOL, CACHETORY_ERR_SERVER, CACHETORY_ERR_IO];
        assert!(expected.contains(&status.parse().unwrap()), "{line}");
        assert!(grown.parse::<i64>().unwrap() <= most(name), "{line}");
    }
}

#[test]
fn what_no_answer_is_takes_no_memory() {
    let program = Program::build("peak");
    for shape in FLOODS {
        println!("{shape:?}");
        let server = flood(shape, 0);
        run(&program, &server, "", |_| LITTLE);
        run(&program, &server, "prefix=p", |_| LITTLE);
    }
}

#[test]
fn a_handshake_takes_no_memory_whatever_it_is_answered_with() {
    let program = Program::build("peak");
    for shape in FLOODS.into_iter().chain(ANSWERS.map(|(shape, _)| shape)) {
        for (options, greeted) in
            [("db=1", 0), ("password=pw&db=1", 1), ("protocol=3", 0), ("client_name=me", 0)]
        {
            println!("{shape:?} {options}");
            run(&program, &flood(shape, greeted), options, |_| LITTLE);
        }
    }
}

#[test]
fn a_large_answer_takes_as_much_memory_as_has_arrived() {
    let program = Program::build("peak");
    for (shape, call) in ANSWERS {
        println!("{shape:?}");
        let server = flood(shape, 0);
        let most = |name: &str| LITTLE + if name == call { (MUCH >> 10) as i64 } else { 0 };
        run(&program, &server, "prefix=p", most);
    }
}
