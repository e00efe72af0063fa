//! An operation as Redis commands. The replies to them are taken in `replies.rs`.

use super::encode::{
    BORROWED_FROM, Outbox, SHORT, Short, argument, command, integer, prefixed, reserve,
};
use super::replies::Expect;
use crate::error::{Error, Kind, Result};
use crate::op::{Answer, Condition, Items, Keys, Op, Ttl, each_item, each_key};
use crate::value::Values;

/// Appends the commands of `op`, to be sent in one go. `Op::Clear` is FLUSHDB: see `clear.rs` for a clear within a
/// prefix.
pub fn encode<'a>(op: &Op<'a>, prefix: &[u8], outbox: &mut Outbox<'_, 'a>) -> Result<()> {
    let out = &mut *outbox.bytes;
    match *op {
        Op::Get { key } => one(out, GET, prefix, key)?,
        Op::Set { key, value, ttl_ms, condition } => {
            let if_not_exists = condition == Condition::NotExists;
            let copied = outbox.copied(value);
            reserve(outbox.bytes, 7, prefix.len() + key.len() + copied)?;
            set_head(outbox.bytes, prefix, key, ttl_ms, if_not_exists);
            outbox.value(value)?;
            set_tail(outbox.bytes, ttl_ms, if_not_exists);
        }
        Op::Ping => {
            reserve(out, 0, 0)?;
            command(out, b"PING", 0);
        }
        Op::MGet { keys } => many(out, b"MGET", prefix, keys)?,
        Op::MSet { items, ttl_ms: None } => mset(outbox, prefix, items)?,
        Op::MSet { items, ttl_ms } => transaction(outbox, prefix, items, ttl_ms)?,
        Op::ExpireIn { key, ttl_ms: None } | Op::ExpireAt { key, unix_ms: None } => {
            one(out, b"*2\r\n$7\r\nPERSIST\r\n", prefix, key)?;
            one(out, b"*2\r\n$6\r\nEXISTS\r\n", prefix, key)?;
        }
        Op::ExpireIn { key, ttl_ms: Some(ttl) } => {
            one(out, b"*3\r\n$7\r\nPEXPIRE\r\n", prefix, key)?;
            integer(out, ttl.max(-1));
        }
        Op::ExpireAt { key, unix_ms: Some(time) } => {
            one(out, b"*3\r\n$9\r\nPEXPIREAT\r\n", prefix, key)?;
            integer(out, time.max(0));
        }
        Op::Delete { key } => one(out, b"*2\r\n$3\r\nDEL\r\n", prefix, key)?,
        Op::MDelete { keys } => many(out, b"DEL", prefix, keys)?,
        Op::Clear => {
            reserve(out, 1, 0)?;
            command(out, b"FLUSHDB", 1);
            argument(out, b"ASYNC");
        }
    }
    Ok(())
}

/// A command whose first argument is the key; `head` is all that comes before it. There is room for one number after
/// it.
#[inline(always)]
fn one(out: &mut Vec<u8>, head: &[u8], prefix: &[u8], key: &[u8]) -> Result<()> {
    reserve(out, 3, prefix.len() + key.len())?;
    out.extend_from_slice(head);
    prefixed(out, prefix, key);
    Ok(())
}

fn many(out: &mut Vec<u8>, name: &[u8], prefix: &[u8], keys: &dyn Keys) -> Result<()> {
    let count = keys.count();
    let prefixes = count.saturating_mul(prefix.len());
    reserve(out, 1 + count, keys.total_len().saturating_add(prefixes))?;
    command(out, name, count);
    each_key(keys, |key| prefixed(out, prefix, key));
    Ok(())
}

const GET: &[u8; 13] = b"*2\r\n$3\r\nGET\r\n";
const PX: &[u8; 8] = b"$2\r\nPX\r\n";
const NX: &[u8; 8] = b"$2\r\nNX\r\n";

#[inline(always)]
fn set_words(ttl: Ttl, nx: bool) -> &'static [u8; 13] {
    match (ttl, nx) {
        (None, false) => b"*3\r\n$3\r\nSET\r\n",
        (None, true) => b"*4\r\n$3\r\nSET\r\n",
        (Some(_), false) => b"*5\r\n$3\r\nSET\r\n",
        (Some(_), true) => b"*6\r\n$3\r\nSET\r\n",
    }
}

/// What comes before the value.
fn set_head(out: &mut Vec<u8>, prefix: &[u8], key: &[u8], ttl: Ttl, nx: bool) {
    out.extend_from_slice(set_words(ttl, nx));
    prefixed(out, prefix, key);
}

/// What comes after it.
fn set_tail(out: &mut Vec<u8>, ttl: Ttl, nx: bool) {
    if let Some(ttl) = ttl {
        out.extend_from_slice(PX);
        integer(out, ttl);
    }
    if nx {
        out.extend_from_slice(NX);
    }
}

/// The length of the command, written into `room`: the two most common ones, where they are short. `None`: another, or
/// there is too little room.
#[inline(always)]
pub fn encode_short(op: &Op<'_>, prefix: &[u8], room: &mut [u8; SHORT]) -> Option<usize> {
    let mut out = Short::new(room);
    match *op {
        Op::Get { key } => {
            out.put(GET)?;
            out.prefixed(prefix, key)?;
        }
        Op::Set { key, value, ttl_ms, condition } => {
            let if_not_exists = condition == Condition::NotExists;
            out.put(set_words(ttl_ms, if_not_exists))?;
            out.prefixed(prefix, key)?;
            out.argument(value)?;
            if let Some(ttl) = ttl_ms {
                out.put(PX)?;
                out.integer(ttl)?;
            }
            if if_not_exists {
                out.put(NX)?;
            }
        }
        _ => return None,
    }
    Some(out.written())
}

/// Makes room for what of a batch is copied; whether that is all of it.
fn reserve_items(
    outbox: &mut Outbox<'_, '_>,
    prefix: &[u8],
    items: &dyn Items,
    arguments: usize,
) -> Result<bool> {
    let total = items.total_len();
    let mut copied = total;
    if outbox.borrowed.is_some()
        && copied >= BORROWED_FROM
        && items.longest_value() >= BORROWED_FROM
    {
        copied -= (0..items.count())
            .map(|i| items.value(i).len() - outbox.copied(items.value(i)))
            .sum::<usize>();
    }
    let prefixes = items.count().saturating_mul(prefix.len());
    reserve(outbox.bytes, arguments, copied.saturating_add(prefixes))?;
    Ok(copied == total)
}

fn mset<'a>(outbox: &mut Outbox<'_, 'a>, prefix: &[u8], items: &'a dyn Items) -> Result<()> {
    let count = items.count();
    let all_copied = reserve_items(outbox, prefix, items, 1 + 2 * count)?;
    command(outbox.bytes, b"MSET", 2 * count);
    if all_copied {
        // The usual case, and the cheaper one.
        let out = &mut *outbox.bytes;
        each_item(items, |key, value| {
            prefixed(out, prefix, key);
            argument(out, value);
        });
        return Ok(());
    }
    for i in 0..count {
        prefixed(outbox.bytes, prefix, items.key(i));
        outbox.value(items.value(i))?;
    }
    Ok(())
}

/// MSET takes no ttl, so the SETs go between MULTI and EXEC, which nothing can come between on one link.
fn transaction<'a>(
    outbox: &mut Outbox<'_, 'a>,
    prefix: &[u8],
    items: &'a dyn Items,
    ttl: Ttl,
) -> Result<()> {
    let count = items.count();
    reserve_items(outbox, prefix, items, 2 + count.saturating_mul(7))?;
    command(outbox.bytes, b"MULTI", 0);
    for i in 0..count {
        set_head(outbox.bytes, prefix, items.key(i), ttl, false);
        outbox.value(items.value(i))?;
        set_tail(outbox.bytes, ttl, false);
    }
    command(outbox.bytes, b"EXEC", 0);
    Ok(())
}

/// A request above this goes over a link of its own. It has nothing to do with `BORROWED_FROM`, from which on a value
/// is sent from where the caller keeps it, nor with the inbox's `LARGE`, from which on a value is read into a buffer of
/// its own.
pub const SHARED: usize = 16 << 10;
/// Most keys of a call that shares a link with others.
const MOST_KEYS: usize = 128;

/// Whether a call of which only its request is there, and what it expects, may share a link with others.
pub fn may_share(expect: Expect, request_len: usize) -> bool {
    // What is around the arguments counts as well here.
    let is_short = request_len <= 2 * SHARED;
    is_short && !matches!(expect, Expect::Transaction(_) | Expect::Flush | Expect::FlushPlainly)
}

/// How an operation is carried out.
pub enum Plan {
    /// It may share a link with others: its request is short, its replies are likely to be, and whatever they are, the
    /// link serves the next call as well as ever.
    Shared(Expect),
    /// It gets a link to itself.
    Exclusive(Expect),
    /// A clear within a prefix, which is many requests: see `clear.rs`.
    ClearPrefix,
    /// It needs no server.
    Answered(Answer),
}

/// Takes an operation apart: what is asked here of its kind is asked nowhere else.
#[inline(always)]
pub fn plan(op: &Op<'_>, prefix: &[u8]) -> Plan {
    let by_size = |bytes: usize, expect| match bytes <= SHARED {
        true => Plan::Shared(expect),
        false => Plan::Exclusive(expect),
    };
    let by_keys = |count: usize, bytes: usize, expect| match count <= MOST_KEYS {
        true => by_size(count * prefix.len() + bytes, expect),
        false => Plan::Exclusive(expect),
    };
    match *op {
        Op::Get { key } => by_size(prefix.len() + key.len(), Expect::Get),
        Op::Set { key, value, condition, .. } => {
            let expect = match condition {
                Condition::Always => Expect::Set,
                Condition::NotExists => Expect::SetIfNotExists,
            };
            by_size(prefix.len() + key.len() + value.len(), expect)
        }
        Op::MGet { keys } => match keys.count() {
            0 => Plan::Answered(Answer::Values(Values::Each(Vec::new()))),
            count => by_keys(count, keys.total_len(), Expect::MGet(count)),
        },
        Op::MSet { items, ttl_ms } => match (items.count(), ttl_ms) {
            (0, _) => Plan::Answered(Answer::Done),
            (count, None) => by_keys(count, items.total_len(), Expect::Set),
            (count, Some(_)) => Plan::Exclusive(Expect::Transaction(count)),
        },
        Op::MDelete { keys } => match keys.count() {
            0 => Plan::Answered(Answer::Deleted(0)),
            count => by_keys(count, keys.total_len(), Expect::Count),
        },
        Op::ExpireIn { key, ttl_ms: None } | Op::ExpireAt { key, unix_ms: None } => {
            by_size(prefix.len() + key.len(), Expect::Persist)
        }
        Op::ExpireIn { key, .. } | Op::ExpireAt { key, .. } | Op::Delete { key } => {
            by_size(prefix.len() + key.len(), Expect::Found)
        }
        Op::Ping => Plan::Shared(Expect::Ping),
        Op::Clear if prefix.is_empty() => Plan::Exclusive(Expect::Flush),
        Op::Clear => Plan::ClearPrefix,
    }
}

/// What is asked where a server has refused a newer form of a command: older servers, and small ones, know FLUSHDB only
/// without ASYNC. Nothing came of the first. That is tried each time, for the next server may know more.
#[cold]
pub fn older_form(expect: Expect, refused: &Error) -> Option<(Expect, &'static [u8])> {
    const ARGUMENTS: [&str; 6] =
        ["syntax", "argument", "async", "unknown", "unsupported", "not supported"];
    match (expect, refusal(refused)) {
        (Expect::Flush, Some(words)) if ARGUMENTS.iter().any(|word| words.contains(word)) => {
            Some((Expect::FlushPlainly, b"*1\r\n$7\r\nFLUSHDB\r\n"))
        }
        _ => None,
    }
}

/// Whether the server does not know the command.
#[cold]
pub fn is_unknown(refused: &Error) -> bool {
    refusal(refused).is_some_and(|words| {
        ["unknown command", "unsupported command"].iter().any(|text| words.contains(text))
    })
}

/// The words of a server that would not carry a command out, in small letters, where they are about the command: what
/// concerns its own state or the client has a code of its own.
fn refusal(error: &Error) -> Option<String> {
    match &error.kind {
        Kind::Server(text) if text.starts_with("ERR ") => Some(text.to_ascii_lowercase()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_request_is_the_same_as_a_long_one() {
        let text = [b'x'; 600];
        let lengths = [0, 1, 9, 10, 99, 100, 400, 450, 480, 490, 500, 600];
        let mut counts = [0; 2];
        let mut compare = |op: Op<'_>, prefix: &[u8]| {
            let mut long = Vec::new();
            encode(&op, prefix, &mut Outbox { bytes: &mut long, borrowed: None }).unwrap();
            let mut room = [0; SHORT];
            let short = encode_short(&op, prefix, &mut room).map(|len| &room[..len]);
            assert!(short.is_some_and(|short| short == long) || short.is_none());
            // A line of a length takes eight bytes, if only for a moment.
            assert!(short.is_some() || long.len() + 8 > SHORT);
            counts[usize::from(short.is_some())] += 1;
        };
        for prefix in [&b""[..], b"prefix:"] {
            for key in lengths.map(|len| &text[..len]) {
                compare(Op::Get { key }, prefix);
                for value in lengths.map(|len| &text[..len]) {
                    for ttl_ms in [None, Some(1), Some(123_456), Some(i64::MAX)] {
                        for condition in [Condition::Always, Condition::NotExists] {
                            compare(Op::Set { key, value, ttl_ms, condition }, prefix);
                        }
                    }
                }
            }
        }
        assert!(counts[0] > 100 && counts[1] > 100);
        assert!(encode_short(&Op::Ping, b"", &mut [0; SHORT]).is_none());
    }
}
