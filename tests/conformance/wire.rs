//! What an independent client sees of a cache on a server, and what the cache sees of that client.

use crate::fixture::{Case, Fixture, case, query, unix_ms_now};
use crate::support::capi::*;

pub fn cases() -> Vec<Case> {
    vec![
        case(what_another_client_wrote_is_read),
        case(what_is_written_another_client_reads),
        case(keys_are_stored_under_the_prefix_in_the_database),
        case(a_ttl_is_the_servers_own),
        case(an_mset_has_its_ttl_on_every_key),
        case(a_get_of_another_type_is_the_servers_error),
        case(a_key_of_another_type_expires_and_is_deleted_and_replaced),
        case(the_connection_has_the_client_name_that_was_asked_for),
        case(the_connection_speaks_the_protocol_that_was_asked_for),
    ]
}

const OK: Outcome = Ok(CACHETORY_OK);
const STRANGE: [&[u8]; 6] = [b"plain", b"", b"\0", b"a\r\nb", b"\xff\x00\xfe", b"12345"];

fn what_another_client_wrote_is_read(f: &Fixture) {
    let mut wire = f.wire();
    for (i, value) in STRANGE.iter().enumerate() {
        let () = query(&mut wire, &[b"SET", &f.key(STRANGE[i]), value]);
        assert_eq!(f.cache.get(STRANGE[i]), Ok(Some(value.to_vec())));
    }
    let all = STRANGE.iter().map(|value| Some(value.to_vec())).collect();
    assert_eq!(f.cache.mget(&STRANGE), Ok(all));
    let () = query(&mut wire, &[b"SET", &f.key("n"), b"41"]);
    let () = query(&mut wire, &[b"INCR", &f.key("n")]);
    assert_eq!(f.cache.get("n"), Ok(Some(b"42".to_vec())));
    let () = query(&mut wire, &[b"DEL", &f.key("n")]);
    assert_eq!(f.cache.delete("n"), Ok(CACHETORY_NOT_FOUND));
}

fn what_is_written_another_client_reads(f: &Fixture) {
    let mut wire = f.wire();
    for value in STRANGE {
        assert_eq!(f.cache.set(value, value), OK);
        assert_eq!(query::<Vec<u8>>(&mut wire, &[b"GET", &f.key(value)]), value);
    }
    for ttl in [NO_EXPIRY, 600_000] {
        let () = query(&mut wire, &[b"FLUSHDB"]);
        assert_eq!(f.cache.mset(&STRANGE.map(|value| (value, value)), ttl), OK);
        for value in STRANGE {
            assert_eq!(query::<Vec<u8>>(&mut wire, &[b"GET", &f.key(value)]), value);
        }
    }
    assert_eq!(f.cache.mdelete(&STRANGE), Ok(STRANGE.len() as u64));
    assert_eq!(query::<u64>(&mut wire, &[b"DBSIZE"]), 0);
}

fn keys_are_stored_under_the_prefix_in_the_database(f: &Fixture) {
    let mut wire = f.wire();
    let mut neighbour = f.neighbour();
    let () = query(&mut neighbour, &[b"FLUSHDB"]);
    assert_eq!(f.cache.set("set", "1"), OK);
    assert_eq!(f.cache.mset(&[("mset", "2")], NO_EXPIRY), OK);
    assert_eq!(f.cache.mset(&[("mset ttl", "3")], 600_000), OK);
    let mut keys: Vec<Vec<u8>> = query(&mut wire, &[b"KEYS", b"*"]);
    keys.sort();
    assert_eq!(keys, [f.key("mset"), f.key("mset ttl"), f.key("set")]);
    assert_eq!(query::<u64>(&mut neighbour, &[b"DBSIZE"]), 0);
}

#[track_caller]
fn near(pttl: i64, expected: i64) {
    assert!(pttl <= expected && pttl > expected - 60_000, "{pttl} ms left of {expected}");
}

fn a_ttl_is_the_servers_own(f: &Fixture) {
    let ttl = 600_000;
    assert_eq!(f.cache.set("key", "value"), OK);
    assert_eq!(f.pttl("key"), -1);
    assert_eq!(f.cache.set_with("key", "value", ttl, 0), OK);
    near(f.pttl("key"), ttl);
    assert_eq!(f.cache.expire_in("key", 2 * ttl), OK);
    near(f.pttl("key"), 2 * ttl);
    assert_eq!(f.cache.expire_at("key", unix_ms_now() + 3 * ttl), OK);
    near(f.pttl("key"), 3 * ttl);
    assert_eq!(f.cache.expire_at("key", NO_EXPIRY), OK);
    assert_eq!(f.pttl("key"), -1);
    assert_eq!(f.cache.expire_in("key", ttl), OK);
    assert_eq!(f.cache.expire_in("key", NO_EXPIRY), OK);
    assert_eq!(f.pttl("key"), -1);
    assert_eq!(f.cache.expire_in("key", ttl), OK);
    assert_eq!(f.cache.set("key", "value"), OK);
    assert_eq!(f.pttl("key"), -1);
    assert_eq!(f.cache.set_with("claim", "1", ttl, IF_NOT_EXISTS), OK);
    near(f.pttl("claim"), ttl);
    let refused = f.cache.set_with("claim", "2", NO_EXPIRY, IF_NOT_EXISTS);
    assert_eq!(refused, Ok(CACHETORY_NOT_STORED));
    near(f.pttl("claim"), ttl);
    assert_eq!(f.cache.expire_in("claim", -1), OK);
    assert_eq!(f.pttl("claim"), -2);
}

fn an_mset_has_its_ttl_on_every_key(f: &Fixture) {
    let keys = ["a", "b", "c"];
    assert_eq!(f.cache.mset(&keys.map(|key| (key, key)), 600_000), OK);
    keys.iter().for_each(|key| near(f.pttl(key), 600_000));
    assert_eq!(f.cache.mset(&keys.map(|key| (key, key)), NO_EXPIRY), OK);
    keys.iter().for_each(|key| assert_eq!(f.pttl(key), -1));
}

fn a_get_of_another_type_is_the_servers_error(f: &Fixture) {
    let () = f.query(&[b"RPUSH", &f.key("list"), b"a"]);
    let failure = f.cache.get("list").unwrap_err();
    assert_eq!((failure.status, failure.flags), (CACHETORY_ERR_SERVER, 0), "{failure:?}");
    assert!(failure.message.contains("WRONGTYPE Operation against a key"), "{failure:?}");
    assert_eq!(f.cache.ping(), OK, "the connection goes on");
    assert_eq!(f.cache.mget(&["list", "none"]), Ok(vec![None, None]), "as MGET has it");
}

fn a_key_of_another_type_expires_and_is_deleted_and_replaced(f: &Fixture) {
    for name in ["expired", "claimed", "deleted", "replaced", "batched"] {
        let () = f.query(&[b"RPUSH", &f.key(name), b"a"]);
    }
    assert_eq!(f.cache.expire_in("expired", 0), OK);
    let claim = f.cache.set_with("claimed", "value", NO_EXPIRY, IF_NOT_EXISTS);
    assert_eq!(claim, Ok(CACHETORY_NOT_STORED));
    assert_eq!(f.cache.delete("deleted"), OK);
    assert_eq!(f.cache.set("replaced", "value"), OK);
    assert_eq!(f.cache.get("replaced"), Ok(Some(b"value".to_vec())));
    assert_eq!(f.cache.mset(&[("batched", "value")], 600_000), OK);
    assert_eq!(f.cache.get("batched"), Ok(Some(b"value".to_vec())));
}

/// The line of CLIENT LIST about the client of that name.
fn client_line(f: &Fixture, name: &str) -> Option<String> {
    let list: String = f.query(&[b"CLIENT", b"LIST"]);
    let field = format!(" name={name} ");
    list.lines().find(|line| line.contains(&field)).map(str::to_owned)
}

fn the_connection_has_the_client_name_that_was_asked_for(f: &Fixture) {
    let name = format!("name-{:x}", f.cache.raw().id);
    let cache = f.open_with(&format!("client_name={name}"));
    assert_eq!(client_line(f, &name), None);
    assert_eq!(cache.ping(), OK);
    assert!(client_line(f, &name).is_some());
    assert_eq!(cache.set("key", "value"), OK);
    assert!(client_line(f, &name).is_some());
}

fn the_connection_speaks_the_protocol_that_was_asked_for(f: &Fixture) {
    let name = format!("protocol-{:x}", f.cache.raw().id);
    let cache = f.open_with(&format!("client_name={name}"));
    assert_eq!(cache.ping(), OK);
    let line = client_line(f, &name).expect("the client is listed");
    let field = if f.is_resp3() { " resp=3" } else { " resp=2" };
    assert!(line.contains(field), "{line}");
}
