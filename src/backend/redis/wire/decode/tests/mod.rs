//! Every type of reply, whole, in pieces, cut and broken.

mod bounds;

use std::cell::Cell;

use super::inbox::{DEEPEST, LONGEST_LINE};
use super::*;

thread_local! {
    static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
}

/// So many bytes were looked through for the end of a line.
pub fn looked_at(bytes: usize) {
    LOOKED_AT.set(LOOKED_AT.get() + bytes);
}

/// Decodes `bytes` in pieces of `step`; the reply, and whether all was used.
fn decode(want: Want, bytes: &[u8], step: usize) -> Result<Option<(Reply, bool)>> {
    let mut inbox = Inbox::default();
    let mut decoder = Decoder::new(want);
    let mut pieces = bytes.chunks(step);
    loop {
        if let Some(reply) = decoder.advance(&mut inbox)? {
            return Ok(Some((reply, inbox.is_empty() && pieces.next().is_none())));
        }
        let Some(piece) = pieces.next() else { return Ok(None) };
        let mut rest = piece;
        while !rest.is_empty() {
            let room = decoder.room(&mut inbox)?;
            let fits = rest.len().min(room.capacity() - room.len());
            room.extend_from_slice(&rest[..fits]);
            rest = &rest[fits..];
            if !rest.is_empty() && decoder.advance(&mut inbox)?.is_some() {
                return Ok(None);
            }
        }
    }
}

fn whole(want: Want, bytes: &[u8]) -> Reply {
    let mut last = None;
    for step in [1, 2, 3, 7, bytes.len().max(1)] {
        if bytes.len() / step > 100_000 {
            continue;
        }
        let (reply, all) = decode(want, bytes, step).unwrap().expect("a whole reply");
        assert!(all, "all of the reply is used");
        last = Some(reply);
    }
    last.unwrap()
}

fn value(bytes: &[u8]) -> Vec<u8> {
    match whole(Want::Value, bytes) {
        Reply::Value(value) => value.data().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_replies() {
    assert!(matches!(whole(Want::Plain, b"+OK\r\n"), Reply::Simple(Simple::Ok)));
    assert!(matches!(whole(Want::Plain, b"+QUEUED\r\n"), Reply::Simple(Simple::Queued)));
    assert!(matches!(whole(Want::Plain, b":-12\r\n"), Reply::Int(-12)));
    for nil in [&b"$-1\r\n"[..], b"*-1\r\n", b"_\r\n"] {
        assert!(matches!(whole(Want::Plain, nil), Reply::Nil));
        assert!(matches!(whole(Want::Value, nil), Reply::Nil));
    }
    for error in [&b"-ERR no\r\n"[..], b"!6\r\nERR no\r\n"] {
        assert!(matches!(whole(Want::Batch(3), error), Reply::Error(text) if text == "ERR no"));
    }
}

#[test]
fn values_of_every_size() {
    for len in [0, 1, 100, LARGE - 1, LARGE, LARGE + 1, 1_000_000] {
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let mut bytes = format!("${len}\r\n").into_bytes();
        bytes.extend_from_slice(&data);
        bytes.extend_from_slice(b"\r\n");
        assert_eq!(value(&bytes), data);
    }
    assert_eq!(value(b"=7\r\ntxt:abc\r\n"), b"txt:abc");
}

#[test]
fn what_is_out_of_band_is_skipped() {
    let bytes = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+ttl\r\n:1\r\n$1\r\nv\r\n";
    assert_eq!(value(bytes), b"v");
    let nested = b">2\r\n|1\r\n+a\r\n+b\r\n+invalidate\r\n+k\r\n$1\r\nv\r\n";
    assert_eq!(value(nested), b"v");
    let within = b"*2\r\n|1\r\n+ttl\r\n:1\r\n$1\r\na\r\n$1\r\nb\r\n";
    let Reply::Batch(values) = whole(Want::Batch(2), within) else { panic!() };
    assert_eq!((values.get(0), values.get(1)), (Some(&b"a"[..]), Some(&b"b"[..])));
    let statuses = b"*2\r\n|1\r\n+ttl\r\n:1\r\n+OK\r\n>1\r\n$3\r\nabc\r\n+OK\r\n";
    assert!(matches!(whole(Want::Statuses(2), statuses), Reply::Statuses));
    let page = b"|1\r\n+a\r\n+b\r\n*2\r\n>0\r\n$1\r\n7\r\n|1\r\n+a\r\n%0\r\n*1\r\n|1\r\n_\r\n_\r\n$1\r\nk\r\n";
    let Reply::Page(page) = whole(Want::Page, page) else { panic!() };
    assert_eq!((&page.cursor[..], page.arguments()), (&b"7"[..], &b"$1\r\nk\r\n"[..]));
}

#[test]
fn a_long_chain_of_attributes() {
    let chain = b"|0\r\n".repeat(200_000);
    let statuses = [b"*1\r\n", &chain[..], b"+OK\r\n"].concat();
    assert!(matches!(whole(Want::Statuses(1), &statuses), Reply::Statuses));
    let values = [b"*1\r\n", &chain[..], b"$1\r\na\r\n"].concat();
    assert!(
        matches!(whole(Want::Batch(1), &values), Reply::Batch(values) if values.get(0) == Some(b"a"))
    );
}

#[test]
fn what_is_skipped_is_not_kept() {
    let mut inbox = Inbox::default();
    let mut decoder = Decoder::new(Want::Value);
    let mut piece = b">1000000\r\n".to_vec();
    for _ in 0..1000 {
        decoder.room(&mut inbox).unwrap().extend_from_slice(&piece);
        assert!(decoder.advance(&mut inbox).unwrap().is_none());
        assert!(inbox.bytes.capacity() < 1 << 20);
        piece = [b"$10000\r\n", &[b'x'; 10000][..], b"\r\n"].concat();
    }
}

#[test]
fn batches() {
    let bytes = b"*4\r\n$3\r\nabc\r\n$-1\r\n$0\r\n\r\n_\r\n";
    let Reply::Batch(values) = whole(Want::Batch(4), bytes) else { panic!() };
    let got: Vec<_> = (0..4).map(|i| values.get(i)).collect();
    assert_eq!(got, [Some(&b"abc"[..]), None, Some(b""), None]);
    let Reply::Batch(values) = whole(Want::Batch(0), b"*0\r\n") else { panic!() };
    assert!(values.is_empty());
    let mut large = b"*1000\r\n".to_vec();
    for i in 0..1000 {
        large.extend_from_slice(format!("$100\r\n{i:0100}\r\n").as_bytes());
    }
    let Reply::Batch(values) = whole(Want::Batch(1000), &large) else { panic!() };
    assert!((0..1000).all(|i| values.get(i) == Some(format!("{i:0100}").as_bytes())));
}

#[test]
fn values_of_every_length() {
    let lengths = [0, 0, 1, 9, 10, 10, 99, 100, 100, 999, 100, 10, 1, 1000, 20_000, 1, 0];
    let mut bytes = format!("*{}\r\n", 2 * lengths.len()).into_bytes();
    for len in lengths {
        let one = format!("${len}\r\n{}\r\n", "x".repeat(len));
        assert_eq!(value(one.as_bytes()), vec![b'x'; len]);
        bytes.extend_from_slice(one.as_bytes());
        bytes.extend_from_slice(b"$-1\r\n");
    }
    let Reply::Batch(values) = whole(Want::Batch(2 * lengths.len()), &bytes) else { panic!() };
    for (i, len) in lengths.into_iter().enumerate() {
        assert_eq!(values.get(2 * i), Some(&vec![b'x'; len][..]));
        assert_eq!(values.get(2 * i + 1), None);
    }
    for line in
        ["$:\r\n", "$1:\r\n", "$/1\r\n", "$1 0\r\n", "$\u{0}00\r\n", "$-11\r\n", "$\u{e9}0\r\n"]
    {
        for before in ["", "$100\r\n", "$10\r\n", "$1\r\n"] {
            let before = match before {
                "" => String::new(),
                line => format!("{line}{}\r\n", "x".repeat(line.trim()[1..].parse().unwrap())),
            };
            let bytes = format!("*2\r\n{before}{line}xxxxxxxxxx\r\n");
            assert!(decode(Want::Batch(2), bytes.as_bytes(), bytes.len()).is_err(), "{bytes:?}");
            assert!(decode(Want::Value, line.as_bytes(), line.len()).is_err(), "{line:?}");
        }
    }
}

#[test]
fn a_batch_after_other_bytes_keeps_them() {
    let mut inbox = Inbox::default();
    inbox.bytes.extend_from_slice(b"*1\r\n$1\r\na\r\n:7\r\n");
    let batch = Decoder::new(Want::Batch(1)).advance(&mut inbox).unwrap();
    assert!(matches!(batch, Some(Reply::Batch(values)) if values.get(0) == Some(b"a")));
    let next = Decoder::new(Want::Plain).advance(&mut inbox).unwrap();
    assert!(matches!(next, Some(Reply::Int(7))) && inbox.is_empty());
}

#[test]
fn what_is_not_kept_is_looked_at() {
    let hello = b"%2\r\n+server\r\n+redis\r\n+modules\r\n*1\r\n%1\r\n$1\r\na\r\n-no\r\n";
    assert!(matches!(whole(Want::Map, hello), Reply::Skipped));
    assert!(matches!(whole(Want::Map, b"*2\r\n+server\r\n!2\r\nno\r\n"), Reply::Skipped));
    for any in [&b"+PONG\r\n"[..], b"$4\r\nPONG\r\n", b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", b"#t\r\n"]
    {
        assert!(matches!(whole(Want::Any, any), Reply::Skipped));
    }
    assert!(matches!(whole(Want::Statuses(0), b"*0\r\n"), Reply::Statuses));
    assert!(matches!(whole(Want::Statuses(3), b"*3\r\n+OK\r\n+OK\r\n+OK\r\n"), Reply::Statuses));
}

#[test]
fn pages_of_keys() {
    let long = "p".repeat(100_000);
    let keys = ["pa", "", "p", &long, "xp", "px"];
    let mut bytes = format!("*2\r\n$20\r\n18446744073709551615\r\n*{}\r\n", keys.len());
    for key in keys {
        bytes += &format!("${}\r\n{key}\r\n", key.len());
    }
    let Reply::Page(mut page) = whole(Want::Page, bytes.as_bytes()) else { panic!() };
    assert_eq!(page.cursor, b"18446744073709551615");
    assert_eq!(page.retain(b"p"), 4);
    let kept = format!("$2\r\npa\r\n$1\r\np\r\n$100000\r\n{long}\r\n$2\r\npx\r\n");
    assert_eq!(page.arguments(), kept.as_bytes());
    assert_eq!(page.retain(b"q"), 0);
    assert!(page.arguments().is_empty());
}

#[test]
fn an_error_in_the_place_of_an_element_is_told_and_the_rest_is_read() {
    for (want, bytes, errors) in [
        (Want::Batch(2), &b"*2\r\n$1\r\na\r\n-no 1\r\n"[..], 1),
        (Want::Batch(4), b"*4\r\n-no 1\r\n$1\r\na\r\n!4\r\nno 2\r\n_\r\n", 2),
        (Want::Batch(3), b"*3\r\n!4\r\nno 1\r\n|1\r\n+a\r\n+b\r\n$5\r\nabcde\r\n_\r\n", 1),
        (Want::Statuses(3), b"*3\r\n+OK\r\n-no 1\r\n+OK\r\n", 1),
        (Want::Statuses(2), b"*2\r\n!4\r\nno 1\r\n-no 2\r\n", 2),
        (Want::Page, b"*2\r\n-no 1\r\n*1\r\n$1\r\nk\r\n", 1),
        (Want::Page, b"*2\r\n$1\r\n0\r\n!4\r\nno 1\r\n", 1),
        (Want::Page, b"*2\r\n$1\r\n0\r\n*3\r\n$1\r\nk\r\n-no 1\r\n$1\r\nk\r\n", 1),
    ] {
        let reply = whole(want, bytes);
        let Reply::Errors { first, count } = reply else { panic!("{want:?}: {reply:?}") };
        assert_eq!((first.as_str(), count), ("no 1", errors), "{want:?}");
    }
}

#[test]
fn garbage_is_an_error_and_never_waited_for() {
    let endless = [b'+'; LONGEST_LINE + 1];
    let deep = b"*1\r\n".repeat(DEEPEST + 2);
    let cases: &[(Want, &[u8])] = &[
        (Want::Value, b"HTTP/1.1 400 Bad Request\r\n"),
        (Want::Value, b"\x15\x03\x01"),
        (Want::Value, b"$999999999999\r\n"),
        (Want::Value, b"$99999999999999999999999\r\n"),
        (Want::Value, b"$-2\r\n"),
        (Want::Value, b"$\r\n"),
        (Want::Value, b"$1x\r\n"),
        (Want::Value, b"$3\nabc\n"),
        (Want::Value, b"$3\r\nabcXY"),
        (Want::Value, b":1\r\n"),
        (Want::Plain, b"$1\r\na\r\n"),
        (Want::Plain, b":1a\r\n"),
        (Want::Batch(2), b"*2147483647\r\n"),
        (Want::Batch(1), b"*1\r\n:1\r\n"),
        (Want::Plain, &endless),
        (Want::Any, &deep),
        (Want::Map, &deep),
        (Want::Value, b"$4294967301\r\n"),
        (Want::Value, b"$?\r\n"),
        (Want::Value, b"$0000000000000000000000000000000000"),
        (Want::Batch(1), b"*1\r\n*1\r\n-no\r\n"),
        (Want::Batch(1), b"*1\r\n|1\r\n$1\r\nabc\r\n$0\r\n\r\n"),
        (Want::Batch(2), b"*2\r\n-no\r\n:1\r\n"),
        (Want::Batch(2), b"*2\r\n-no\r\n$1\r\nabc"),
        (Want::Batch(1), b"*?\r\n"),
        // More than is skipped, by what their heads say.
        (Want::Plain, b"|9223372036854775807\r\n"),
        (Want::Value, b">2147483647\r\n"),
        (Want::Value, b">1\r\n$100000000\r\n"),
        (Want::Batch(1), b"*1\r\n|2147483647\r\n"),
        (Want::Statuses(1), b"*1\r\n|1\r\n$100000000\r\n"),
        (Want::Map, b"%2147483647\r\n"),
        (Want::Map, b"*40000000\r\n"),
        (Want::Map, b"*1\r\n*30000\r\n"),
        (Want::Map, b"%1\r\n+a\r\n$70000\r\n"),
        (Want::Map, b"+OK\r\n"),
        (Want::Any, b"$536870912\r\n"),
        (Want::Statuses(2), b"*60000000\r\n"),
        (Want::Statuses(2), b"*1\r\n+OK\r\n"),
        (Want::Statuses(2), b"*2\r\n+OK\r\n+NO\r\n"),
        (Want::Statuses(1), b"*1\r\n$2\r\nOK\r\n"),
        (Want::Statuses(1), b"*1\r\n*1\r\n-no\r\n"),
        (Want::Statuses(1), b"*-1\r\n"),
        (Want::Page, b"*3\r\n"),
        (Want::Page, b"%1\r\n"),
        (Want::Page, b"*2\r\n:0\r\n"),
        (Want::Page, b"*2\r\n$0\r\n\r\n"),
        (Want::Page, b"*2\r\n$2\r\n1x\r\n"),
        (Want::Page, b"*2\r\n$21\r\n"),
        (Want::Page, b"*2\r\n$1\r\n0\r\n*200000000\r\n"),
        (Want::Page, b"*2\r\n$1\r\n0\r\n$1\r\nk\r\n"),
        (Want::Page, b"*2\r\n$1\r\n0\r\n*1\r\n_\r\n"),
        (Want::Page, b"*2\r\n$1\r\n0\r\n*1\r\n*1\r\n-no\r\n"),
        (Want::Page, b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nabc"),
    ];
    for &(want, bytes) in cases {
        let name = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]);
        for step in [1, bytes.len()] {
            assert!(decode(want, bytes, step).is_err(), "{want:?} {name:?}");
        }
    }
}

#[test]
fn what_is_cut_is_waited_for() {
    for (want, bytes) in [
        (Want::Value, &b"$3\r\nab"[..]),
        (Want::Value, b"$100000\r\nab"),
        (Want::Batch(2), b"*2\r\n$1\r\na\r\n$"),
        (Want::Batch(2), b"*2\r\n-no\r\n$1\r\na\r"),
        (Want::Statuses(2147483647), b"*2147483647\r\n+OK\r\n"),
        (Want::Page, b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n"),
        (Want::Map, b"%2\r\n+a\r\n*2\r\n"),
        (Want::Any, b"$4\r\nPON"),
        (Want::Plain, b"+O"),
        (Want::Plain, b"-ERR\r"),
    ] {
        assert!(decode(want, bytes, 1).unwrap().is_none());
    }
}
