//! delete, mdelete, clear: what goes, and what must stay.

use crate::fixture::{Case, Fixture, case, encode, query};
use crate::support::capi::*;

pub fn cases() -> Vec<Case> {
    vec![
        case(delete_tells_what_was_there),
        case(mdelete_counts_what_was_there),
        case(mdelete_counts_a_duplicate_once),
        case(mdelete_of_no_keys_deletes_nothing),
        case(clear_empties_the_cache),
        case(clear_of_an_empty_cache_succeeds),
        case(clear_deletes_thousands_of_keys),
        case(clear_leaves_other_databases),
        case(clear_leaves_what_lacks_the_prefix),
        case(glob_characters_in_a_prefix_are_only_characters),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);

fn delete_tells_what_was_there(f: &Fixture) {
    assert_eq!(f.cache.delete("key"), Ok(CACHETORY_NOT_FOUND));
    assert_eq!(f.cache.mset(&[("key", "value"), ("other", "")], NO_EXPIRY), OK);
    assert_eq!(f.cache.delete("key"), OK);
    assert_eq!(f.cache.get("key"), Ok(None));
    assert_eq!(f.cache.delete("key"), Ok(CACHETORY_NOT_FOUND));
    assert_eq!(f.cache.delete("other"), OK);
}

fn mdelete_counts_what_was_there(f: &Fixture) {
    assert_eq!(f.cache.mset(&[("a", "1"), ("b", ""), ("c", "3")], NO_EXPIRY), OK);
    assert_eq!(f.cache.mdelete(&["none"]), Ok(0));
    assert_eq!(f.cache.mdelete(&["a", "none", "b"]), Ok(2));
    assert_eq!(f.cache.mget(&["a", "b", "c"]), Ok(vec![None, None, Some(b"3".to_vec())]));
    assert_eq!(f.cache.mdelete(&["a", "b", "c"]), Ok(1));
}

fn mdelete_counts_a_duplicate_once(f: &Fixture) {
    assert_eq!(f.cache.mset(&[("a", "1"), ("b", "2")], NO_EXPIRY), OK);
    assert_eq!(f.cache.mdelete(&["a", "a", "none", "b", "a", "none"]), Ok(2));
}

fn mdelete_of_no_keys_deletes_nothing(f: &Fixture) {
    assert_eq!(f.cache.set("key", "value"), OK);
    assert_eq!(f.cache.mdelete::<&str>(&[]), Ok(0));
    assert_eq!(f.cache.get("key"), Ok(Some(b"value".to_vec())));
}

fn clear_empties_the_cache(f: &Fixture) {
    let keys = ["a", "", "*", "[x]", "with a ttl"];
    assert_eq!(f.cache.mset(&keys.map(|key| (key, "value")), NO_EXPIRY), OK);
    assert_eq!(f.cache.expire_in("with a ttl", 600_000), OK);
    assert_eq!(f.cache.clear(), OK);
    assert_eq!(f.cache.mget(&keys), Ok(vec![None; keys.len()]));
    assert_eq!(f.cache.mset(&keys.map(|key| (key, "again")), NO_EXPIRY), OK);
    assert_eq!(f.cache.mget(&keys), Ok(vec![Some(b"again".to_vec()); keys.len()]));
    assert_eq!(f.cache.clear(), OK);
    assert_eq!(f.cache.mdelete(&keys), Ok(0));
}

fn clear_of_an_empty_cache_succeeds(f: &Fixture) {
    assert_eq!(f.cache.clear(), OK);
    assert_eq!(f.cache.clear(), OK);
}

fn clear_deletes_thousands_of_keys(f: &Fixture) {
    let items: Vec<_> = (0..7000).map(|i| (format!("key:{i}"), "value")).collect();
    assert_eq!(f.cache.mset(&items, NO_EXPIRY), OK);
    assert_eq!(f.cache.clear(), OK);
    let keys: Vec<_> = items.iter().map(|(key, _)| key).collect();
    assert!(f.cache.mget(&keys).unwrap().iter().all(Option::is_none));
    if f.has_server() {
        assert_eq!(f.query::<u64>(&[b"DBSIZE"]), 0);
    }
}

fn clear_leaves_other_databases(f: &Fixture) {
    if !f.has_server() {
        let other = f.open_again();
        assert_eq!(other.set("key", "value"), OK);
        assert_eq!(f.cache.clear(), OK);
        assert_eq!(other.get("key"), Ok(Some(b"value".to_vec())), "a store of its own");
        return;
    }
    let mut neighbour = f.neighbour();
    let () = query(&mut neighbour, &[b"SET", &f.key("key"), b"theirs"]);
    assert_eq!(f.cache.set("key", "ours"), OK);
    assert_eq!(f.cache.clear(), OK);
    assert_eq!(f.cache.get("key"), Ok(None));
    assert_eq!(query::<String>(&mut neighbour, &[b"GET", &f.key("key")]), "theirs");
    let () = query(&mut neighbour, &[b"FLUSHDB"]);
}

/// Keys that a prefix taken for a pattern, cut short or folded might take along.
fn neighbours(prefix: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for end in 0..prefix.len() {
        all.push(prefix[..end].to_vec());
        all.push([&prefix[..end], b"key"].concat());
        all.push([&prefix[..end], b"x", &prefix[end + 1..], b"key"].concat());
        all.push([&prefix[end + 1..], b"key"].concat());
    }
    all.push([b"x", prefix].concat());
    all.push(prefix.to_ascii_uppercase());
    all.push(prefix.to_ascii_lowercase());
    all.extend(
        [&b"a"[..], b"b", b"ab", b"axxb", b"\\a", b"\\", b"*", b"?", b"[", b"]", b"^"]
            .map(Vec::from),
    );
    all.retain(|key| !key.starts_with(prefix));
    all.sort();
    all.dedup();
    all
}

#[track_caller]
fn clears_only_its_own(f: &Fixture, cache: &Cache, prefix: &[u8]) {
    let mut wire = f.wire();
    let () = query(&mut wire, &[b"FLUSHDB"]);
    let neighbours = neighbours(prefix);
    for key in &neighbours {
        let () = query(&mut wire, &[b"SET", key, b"theirs"]);
    }
    let own = ["", "key", "*", "a", "\\"];
    assert_eq!(cache.mset(&own.map(|key| (key, "ours")), NO_EXPIRY), OK);
    let all = neighbours.len() + own.len();
    assert_eq!(query::<usize>(&mut wire, &[b"DBSIZE"]), all);
    assert_eq!(cache.clear(), OK);
    let shown = prefix.escape_ascii();
    assert_eq!(cache.mget(&own), Ok(vec![None; own.len()]), "prefix {shown}");
    let mut left: Vec<Vec<u8>> = query(&mut wire, &[b"KEYS", b"*"]);
    left.sort();
    assert_eq!(left, neighbours, "prefix {shown}");
}

fn clear_leaves_what_lacks_the_prefix(f: &Fixture) {
    if f.has_server() && !f.prefix().is_empty() {
        clears_only_its_own(f, &f.cache, f.prefix());
    }
}

fn glob_characters_in_a_prefix_are_only_characters(f: &Fixture) {
    if !f.has_server() {
        return;
    }
    let prefixes: [&[u8]; 14] = [
        b"*",
        b"?",
        b"[ab]",
        b"[^a]",
        b"[a-z]",
        b"\\",
        b"\\*",
        b"a*",
        b"a?b",
        b"a[b",
        b"]",
        b"*:*",
        b"a\\",
        b"\xff\0*\r\n",
    ];
    for glob in prefixes {
        // An ACL user may touch only what starts with the user's own prefix.
        let prefix = [f.prefix(), glob].concat();
        let cache = f.open_with(&format!("prefix={}", encode(&prefix)));
        clears_only_its_own(f, &cache, &prefix);
    }
}
