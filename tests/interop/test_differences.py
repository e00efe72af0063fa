"""Where the Python original behaves differently: each test holds both behaviours. README.md has the list."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
import redis
from cachetory.backends.sync import MemoryBackend, RedisBackend

import cachetory_c
from cachetory_c import CachetoryError
from conftest import python_cache


def test_get_many_of_the_original_omits_the_prefix(server, client):
    client.mset({"svc:a": "with", "a": "without"})
    with cachetory_c.Cache(f"{server.tcp_url}?prefix=svc%3A") as ours, python_cache(server, "svc:") as original:
        # It asks for the bare key, and answers under the prefixed one.
        assert original.get_many("a") == {"svc:a": b"without"}
        assert original["a"] == b"with"
        assert ours.mget([b"a"]) == [b"with"]


def test_clear_of_the_original_ignores_the_prefix(server, client):
    client.mset({"svc:a": "1", "other:a": "2"})
    with cachetory_c.Cache(f"{server.tcp_url}?prefix=svc%3A") as ours, python_cache(server, "svc:") as original:
        ours.clear()
        assert client.keys() == [b"other:a"]
        original.clear()
        assert client.keys() == []


def test_expire_in_0_of_the_original_persists(ours, original, client):
    original.set("python", b"v", timedelta(hours=1))
    original.expire_in("python", timedelta(0))
    assert client.pttl("python") == -1
    ours.set(b"c", b"v", 3_600_000)
    assert ours.expire_in(b"c", 0)
    assert ours.get(b"c") is None
    # Its memory backend is of our opinion.
    memory = MemoryBackend()
    memory.set("k", b"v")
    memory.expire_in("k", timedelta(0))
    with pytest.raises(KeyError):
        memory.get("k")


def test_an_empty_batch_is_an_error_of_the_original(ours, server):
    with RedisBackend.from_url(server.tcp_url) as original:
        with pytest.raises(TypeError):
            list(original.get_many())
        with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
            original.set_many([])
    assert ours.mget([]) == []
    ours.mset([])
    assert ours.mdelete([]) == 0


def test_a_ttl_of_0_is_an_error_of_the_server_there_and_of_the_caller_here(ours, original, client):
    with pytest.raises(redis.ResponseError, match="invalid expire"):
        original.set("k", b"v", timedelta(0))
    with pytest.raises(CachetoryError) as caught:
        ours.set(b"k", b"v", 0)
    assert caught.value.status == cachetory_c.ERR_INVALID_ARGUMENT
    assert not caught.value.maybe_applied
    assert client.dbsize() == 0


def test_expire_tells_a_missing_key_only_here(ours, original):
    assert original.expire_in("k", timedelta(hours=1)) is None
    assert not ours.expire_in(b"k", 3_600_000)
    assert not ours.expire_at(b"k", int(time.time() * 1000) + 3_600_000)
    assert not ours.expire_in(b"k", cachetory_c.NO_EXPIRY)


def test_the_epoch_is_a_time_in_the_past_for_both(ours, server):
    with RedisBackend.from_url(server.tcp_url) as original:
        original.set("python", b"v")
        original.expire_at("python", datetime(1970, 1, 1, tzinfo=timezone.utc))
        with pytest.raises(KeyError):
            original.get("python")
    ours.set(b"c", b"v")
    assert ours.expire_at(b"c", 0)
    assert ours.get(b"c") is None


def test_an_expired_key_still_counts_in_the_memory_backend_of_the_original():
    long_ago = datetime(1970, 1, 1, tzinfo=timezone.utc)
    original = MemoryBackend()
    original.set("k", b"v", time_to_live=timedelta(seconds=-1))
    assert not original.set("k", b"w", if_not_exists=True)
    assert original.delete("k")
    with cachetory_c.Cache("memory://") as ours:
        ours.set(b"k", b"v")
        assert ours.expire_at(b"k", int(long_ago.timestamp()))
        assert ours.set(b"k", b"w", if_not_exists=True)
        assert ours.expire_in(b"k", -1)
        assert not ours.delete(b"k")
