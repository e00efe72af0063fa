"""This library, the redis package and the cachetory package on one server: each reads what the others wrote."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from cachetory.backends.sync import RedisBackend
from cachetory.caches.sync import Cache as PythonCache
from cachetory.serializers import JsonSerializer

import cachetory_c
from cachetory_c import NO_EXPIRY
from conftest import python_cache
from polling import poll

HOUR_MS = 3_600_000
VALUES = [b"", b"\0", b"text", b"$3\r\nfoo\r\n", bytes(range(256)), b"x" * 1_000_000]


def assert_about_an_hour(ttl_ms: int) -> None:
    assert HOUR_MS - 60_000 < ttl_ms <= HOUR_MS


@pytest.mark.parametrize("value", VALUES, ids=len)
def test_values_are_the_same_bytes(ours, original, client, value):
    ours.set(b"c", value)
    original.set("python", value)
    client.set("client", value)
    assert original["c"] == client.get("c") == value
    assert ours.get(b"python") == client.get("python") == value
    assert ours.get(b"client") == original["client"] == value
    assert ours.mget([b"python", b"missing", b"c"]) == [value, None, value]
    assert original.get_many("c", "missing", "python") == {"c": value, "python": value}


@pytest.mark.parametrize("key", ["", "a b", "ключ", "a\0b\r\n", "x" * 5000], ids=len)
def test_keys_are_the_utf_8_of_the_text(ours, original, key):
    ours.set(key.encode(), b"c")
    assert original[key] == b"c"
    original[key] = b"python"
    assert ours.get(key.encode()) == b"python"


def test_a_key_need_not_be_text(ours, client):
    key = bytes(reversed(range(256)))
    ours.set(key, b"c")
    assert client.get(key) == b"c"
    assert client.keys() == [key]


def test_a_serialized_value_is_the_serializer_s_bytes(ours, server):
    cache = PythonCache(serializer=JsonSerializer(), backend=RedisBackend.from_url(server.tcp_url))
    with cache:
        cache["k"] = {"n": 1}
        assert ours.get(b"k") == b'{"n": 1}'
        ours.set(b"k", b"[1, null]")
        assert cache["k"] == [1, None]


def test_a_missing_key_is_missing_for_all(ours, original, client):
    assert ours.get(b"k") is None
    assert original.get("k") is None
    assert client.get("k") is None
    assert not ours.delete(b"k")
    assert not original.delete("k")


def test_an_empty_value_is_no_miss(ours, original):
    ours.set(b"c", b"")
    assert original["c"] == b""
    original["python"] = b""
    assert ours.get(b"python") == b""
    assert ours.mget([b"python", b"missing"]) == [b"", None]
    assert not ours.set(b"python", b"x", if_not_exists=True)


def test_a_ttl_set_here_is_seen_there(ours, client):
    ours.set(b"set", b"v", HOUR_MS)
    ours.set(b"nx", b"v", HOUR_MS, if_not_exists=True)
    ours.mset([(b"mset", b"v")], HOUR_MS)
    ours.set(b"expire_in", b"v")
    assert ours.expire_in(b"expire_in", HOUR_MS)
    for key in ("set", "nx", "mset", "expire_in"):
        assert_about_an_hour(client.pttl(key))
    ours.set(b"none", b"v")
    assert client.pttl("none") == -1


def test_a_ttl_set_here_is_the_one_that_the_original_sets(ours, original, client):
    original.set("python", b"v", timedelta(milliseconds=HOUR_MS))
    ours.set(b"c", b"v", HOUR_MS)
    assert_about_an_hour(client.pttl("python"))
    assert_about_an_hour(client.pttl("c"))


def test_a_time_of_expiry_is_kept_to_the_millisecond(ours, original, client, server):
    at_ms = int(time.time() * 1000) + HOUR_MS + 123
    ours.set(b"c", b"v")
    assert ours.expire_at(b"c", at_ms)
    backend = RedisBackend.from_url(server.tcp_url)
    backend.set("python", b"v")
    backend.expire_at("python", datetime.fromtimestamp(at_ms / 1000, timezone.utc))
    assert client.pexpiretime("c") == client.pexpiretime("python") == at_ms


def test_what_expires_there_is_gone_here(ours, original, client):
    original.set("python", b"v", timedelta(milliseconds=50))
    ours.set(b"c", b"v", 50)
    poll("they never expire", lambda: ours.get(b"python") is None and original.get("c") is None)
    assert client.dbsize() == 0


def test_if_not_exists_both_ways(ours, original):
    assert ours.set(b"c", b"first", if_not_exists=True)
    original.set("c", b"second", if_not_exists=True)
    assert original["c"] == b"first"
    original.set("python", b"first", if_not_exists=True)
    assert not ours.set(b"python", b"second", HOUR_MS, if_not_exists=True)
    assert ours.get(b"python") == b"first"


def test_a_refused_set_leaves_the_ttl(ours, client, original):
    original.set("k", b"v", timedelta(hours=1))
    assert not ours.set(b"k", b"w", 1000, if_not_exists=True)
    assert_about_an_hour(client.pttl("k"))


def test_overwriting_clears_the_expiry(ours, original, client):
    for write in (
        lambda: ours.set(b"k", b"w"),
        lambda: ours.mset([(b"k", b"w")]),
        lambda: original.set("k", b"w"),
        lambda: original.set_many({"k": b"w"}),
    ):
        ours.set(b"k", b"v", HOUR_MS)
        assert client.pttl("k") > 0
        write()
        assert client.pttl("k") == -1


def test_no_expiry_clears_the_expiry(ours, original, client):
    for clear in (
        lambda: ours.expire_in(b"k", NO_EXPIRY),
        lambda: ours.expire_at(b"k", NO_EXPIRY),
        lambda: original.expire_in("k"),
    ):
        original.set("k", b"v", timedelta(hours=1))
        assert client.pttl("k") > 0
        clear()
        assert client.pttl("k") == -1
        assert ours.get(b"k") == b"v"


def test_batches_both_ways(ours, original):
    pairs = {f"key-{i}": bytes([i % 256]) * i for i in range(500)}
    keys = list(pairs)
    original.set_many(pairs)
    assert ours.mget([key.encode() for key in keys]) == list(pairs.values())
    ours.clear()
    ours.mset((key.encode(), value) for key, value in pairs.items())
    assert original.get_many(*keys) == pairs
    original.delete_many(*keys[:250])
    assert ours.mdelete([key.encode() for key in keys]) == 250


def test_deletes_both_ways(ours, original):
    ours.set(b"a", b"1")
    assert original.delete("a")
    assert ours.get(b"a") is None
    original["a"] = b"1"
    assert ours.delete(b"a")
    assert original.get("a") is None


def test_clears_both_ways(ours, original, client):
    original.set_many({"a": b"1", "b": b"2"})
    ours.clear()
    assert client.dbsize() == 0
    ours.mset([(b"a", b"1"), (b"b", b"2")])
    original.clear()
    assert ours.mget([b"a", b"b"]) == [None, None]


@pytest.mark.parametrize("prefix, in_url", [("svc:", "svc%3A"), ("a b*[", "a+b*%5B"), ("é", "%C3%A9")])
def test_a_prefix_means_the_same_on_both_sides(server, client, prefix, in_url):
    with cachetory_c.Cache(f"{server.tcp_url}?prefix={in_url}") as ours, python_cache(server, prefix) as original:
        original["python"] = b"1"
        ours.set(b"c", b"2")
        assert sorted(client.keys()) == sorted([f"{prefix}python".encode(), f"{prefix}c".encode()])
        assert ours.get(b"python") == b"1"
        assert original["c"] == b"2"
        original.set_many({"a": b"3", "b": b"4"})
        assert ours.mget([b"a", b"b"]) == [b"3", b"4"]
        assert ours.expire_in(b"a", HOUR_MS)
        assert_about_an_hour(client.pttl(f"{prefix}a"))
        original.expire_in("a")
        assert client.pttl(f"{prefix}a") == -1
        assert original.delete("c")
        assert ours.mdelete([b"a", b"b", b"c"]) == 2
        assert ours.delete(b"python")
        assert client.dbsize() == 0


def test_a_value_of_another_type_is_the_server_s_error(ours, client):
    client.rpush("list", "x")
    with pytest.raises(cachetory_c.CachetoryError, match="WRONGTYPE") as caught:
        ours.get(b"list")
    assert caught.value.status == cachetory_c.STATUSES["CACHETORY_ERR_SERVER"]
    assert ours.mget([b"list"]) == [None]
