//! What arrives in pieces, in large amounts, or is never asked for: it is looked at once, kept once, and has an end.

use std::collections::BTreeMap;

use super::super::inbox::LARGE;
use super::super::*;
use super::{LOOKED_AT, decode};

#[test]
fn what_nobody_asked_for_has_an_end() {
    for (want, before) in [
        (Want::Value, ""),
        (Want::Batch(1), "*1\r\n"),
        (Want::Statuses(1), "*1\r\n"),
        (Want::Map, ""),
    ] {
        for piece in [">0\r\n".to_owned(), format!("|1\r\n+a\r\n$1000\r\n{}\r\n", "x".repeat(1000))]
        {
            let endless =
                [before, &piece.repeat((MOST_OUT_OF_BAND + (1 << 20)) / piece.len())].concat();
            assert!(
                decode(want, endless.as_bytes(), 1 << 16).is_err(),
                "{want:?} {:?}",
                &piece[..4]
            );
        }
    }
}

#[test]
fn whatever_arrives_byte_by_byte_each_byte_is_looked_at_few_times() {
    const SIZE: usize = 60_000;
    let text = "x".repeat(SIZE);
    let bulk = format!("${SIZE}\r\n{text}\r\n");
    let nulls = "_\r\n".repeat(SIZE / 3);
    let attribute = format!("|1\r\n+a\r\n*{}\r\n{nulls}", SIZE / 3);
    for (want, bytes) in [
        (Want::Value, bulk.clone()),
        (Want::Value, format!("-{text}\r\n")),
        (Want::Plain, format!("+{text}\r\n")),
        (Want::Any, format!("({text}\r\n")),
        (Want::Value, format!("!{SIZE}\r\n{text}\r\n")),
        (Want::Value, format!(">2\r\n+{text}\r\n{bulk}$-1\r\n")),
        (Want::Value, format!("{attribute}$-1\r\n")),
        (Want::Batch(2), format!("*2\r\n{bulk}{attribute}{bulk}")),
        (
            Want::Batch(2),
            format!("*2\r\n|2\r\n+{text}\r\n{bulk}{bulk}:1\r\n{attribute}$-1\r\n$-1\r\n"),
        ),
        (Want::Batch(SIZE / 3), format!("*{}\r\n{nulls}", SIZE / 3)),
        (Want::Batch(2), format!("*2\r\n-{text}\r\n{attribute}{bulk}")),
        (Want::Statuses(SIZE / 5), format!("*{}\r\n{}", SIZE / 5, "+OK\r\n".repeat(SIZE / 5))),
        (Want::Statuses(2), format!("*2\r\n{attribute}-{text}\r\n-{text}\r\n")),
        (Want::Page, format!("*2\r\n{attribute}$1\r\n0\r\n*2\r\n{bulk}{attribute}{bulk}")),
        (
            Want::Map,
            format!("*2\r\n*2\r\n+a\r\n+{}\r\n${}\r\n{0}\r\n", &text[1000..][..SIZE / 3], SIZE / 3),
        ),
    ] {
        LOOKED_AT.set(0);
        let reply = decode(want, bytes.as_bytes(), 1).unwrap();
        assert!(reply.is_some_and(|(_, all)| all), "{want:?} {:?}", &bytes[..20]);
        let looked_at = LOOKED_AT.get();
        assert!(looked_at <= 100 * bytes.len(), "{want:?} {:?}: {looked_at}", &bytes[..20]);
    }
}

#[test]
fn memory_follows_what_has_arrived() {
    const MUCH: usize = 40 << 20;
    let mut inbox = Inbox::default();
    for want in [Want::Value, Want::Batch(8)] {
        let mut decoder = Decoder::new(want);
        let mut arrived = 0;
        let head =
            if let Want::Batch(_) = want { "*8\r\n$536870912\r\n" } else { "$536870912\r\n" };
        decoder.room(&mut inbox).unwrap().extend_from_slice(head.as_bytes());
        assert!(decoder.advance(&mut inbox).unwrap().is_none());
        while arrived < MUCH {
            let room = decoder.room(&mut inbox).unwrap();
            // From the last step on it is a mapping whose untouched part takes none.
            let most = if arrived < 1_000_000 {
                2 << 20
            } else if arrived < 6_000_000 {
                7 << 20
            } else {
                70 << 20
            };
            assert!(room.capacity() <= most, "{} after {arrived}", room.capacity());
            let count = (room.capacity() - room.len()).min(100_000);
            room.resize(room.len() + count, b'x');
            arrived += count;
            assert!(decoder.advance(&mut inbox).unwrap().is_none());
        }
        inbox = Inbox::default();
    }
}

#[test]
fn a_large_value_that_has_arrived_already_is_not_copied() {
    for (len, after) in [(2 << 20, &b":7\r\n"[..]), (3 << 20, b""), (40 << 20, b"+OK\r\n")] {
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let bytes =
            [b":1\r\n$", len.to_string().as_bytes(), b"\r\n", &data, b"\r\n", after].concat();
        for early in [bytes.len(), (1 << 20) + 100, 1000] {
            let mut inbox = Inbox::default();
            inbox.bytes.extend_from_slice(&bytes[..early]);
            let first = Decoder::new(Want::Plain).advance(&mut inbox).unwrap();
            assert!(matches!(first, Some(Reply::Int(1))));
            let mut rest = &bytes[early..];
            let mut decoder = Decoder::new(Want::Value);
            let value = loop {
                if let Some(reply) = decoder.advance(&mut inbox).unwrap() {
                    break reply;
                }
                let room = decoder.room(&mut inbox).unwrap();
                let fits = rest.len().min(room.capacity() - room.len());
                room.extend_from_slice(&rest[..fits]);
                rest = &rest[fits..];
            };
            let Reply::Value(value) = value else { panic!() };
            assert!(value.data() == data && value.data_and_nul().ends_with(b"\0"));
            inbox.bytes.extend_from_slice(rest);
            assert_eq!(inbox.undecoded(), after);
        }
    }
}

/// What a decoder comes to, and how much of the bytes it has used.
fn outcome(want: Want, bytes: &[u8], mut step: impl FnMut() -> usize) -> String {
    let mut inbox = Inbox::default();
    let mut decoder = Decoder::new(want);
    let mut fed = 0;
    loop {
        match decoder.advance(&mut inbox) {
            Err(_) => return "a breach".into(),
            Ok(Some(Reply::Batch(values))) => {
                let values: Vec<_> = (0..values.len()).map(|i| values.get(i)).collect();
                return format!("{values:?} in {}", fed - inbox.len());
            }
            Ok(Some(Reply::Value(value))) => {
                assert_eq!(value.data_and_nul().last(), Some(&0));
                return format!("{:?} in {}", value.data(), fed - inbox.len());
            }
            Ok(Some(reply)) => return format!("{reply:?} in {}", fed - inbox.len()),
            Ok(None) if fed == bytes.len() => return "more".into(),
            Ok(None) => {}
        }
        let room = decoder.room(&mut inbox).unwrap();
        let free = room.capacity() - room.len();
        assert!(free > 0, "room that is none");
        let count = step().clamp(1, free).min(bytes.len() - fed);
        room.extend_from_slice(&bytes[fed..fed + count]);
        fed += count;
    }
}

#[test]
fn in_whatever_pieces_it_arrives_a_reply_is_the_same() {
    let long = format!("${LARGE}\r\n{}\r\n", "x".repeat(LARGE));
    let text = format!("-{}\r\n", "e".repeat(100));
    let words = [
        "+OK\r\n",
        "+OK\r\n",
        "-no\r\n",
        "!2\r\nno\r\n",
        "$-1\r\n",
        "_\r\n",
        "$1\r\na\r\n",
        "$0\r\n\r\n",
        "$12\r\nhello, world\r\n",
        "=5\r\ntxt:a\r\n",
        ":1\r\n",
        "#t\r\n",
        ",1.5\r\n",
        "(12345\r\n",
        "*0\r\n",
        "*1\r\n",
        "*2\r\n",
        "*2\r\n",
        "~2\r\n",
        "%1\r\n",
        "|1\r\n",
        "|0\r\n",
        ">1\r\n",
        ">0\r\n",
        "$",
        "\r",
        "\n",
        "x",
        &long,
        &text,
    ];
    let wants = [
        Want::Plain,
        Want::Value,
        Want::Batch(1),
        Want::Batch(2),
        Want::Statuses(2),
        Want::Page,
        Want::Map,
        Want::Any,
    ];
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut seen = BTreeMap::new();
    for turn in 0..8000 {
        let count = 1 + random(8);
        let mut bytes: String = (0..count).map(|_| words[random(words.len())]).collect();
        let want = wants[turn % wants.len()];
        match want {
            Want::Batch(2) | Want::Map if random(2) == 0 => bytes.insert_str(0, "*2\r\n"),
            Want::Statuses(2) if random(2) == 0 => bytes.insert_str(0, "*2\r\n+OK\r\n"),
            Want::Page if random(4) > 0 => bytes.insert_str(0, "*2\r\n$1\r\n0\r\n*2\r\n"),
            _ => {}
        }
        let bytes = bytes.as_bytes();
        let whole = outcome(want, bytes, || usize::MAX);
        assert_eq!(whole, outcome(want, bytes, || 1 + random(40)), "{want:?} {bytes:?}");
        if bytes.len() < 1000 {
            assert_eq!(whole, outcome(want, bytes, || 1), "{want:?} {bytes:?}");
        }
        let kind = whole.split([' ', '[', '(']).next().unwrap().to_owned();
        *seen.entry(kind).or_insert(0) += 1;
    }
    for kind in
        ["Simple", "Statuses", "Page", "Skipped", "Error", "Errors", "Nil", "Int", "", "more", "a"]
    {
        assert!(seen.get(kind).is_some_and(|count| *count >= 10), "{kind}: {seen:?}");
    }
}
