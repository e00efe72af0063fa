"""What the reference implementation asks of a backend, asked of this library through its Python interface.

The reference backends take the same tests, which shows that the tests ask for nothing of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest
from cachetory.backends.sync import MemoryBackend, RedisBackend
from cachetory.caches.sync import Cache as PythonCache
from cachetory.interfaces.backends.sync import SyncBackend
from cachetory.serializers import PickleSerializer

from backend import CachetoryBackend
from polling import poll
from redis_server import RedisServer

BACKENDS: dict[str, Callable[[RedisServer], SyncBackend[bytes]]] = {
    "memory": lambda _: CachetoryBackend.from_url("memory://"),
    "memory-bounded": lambda _: CachetoryBackend.from_url("memory://?max_bytes=1m&prefix=a"),
    "redis-tcp": lambda server: CachetoryBackend.from_url(server.tcp_url),
    "redis-unix": lambda server: CachetoryBackend.from_url(server.unix_url),
    "redis-resp3": lambda server: CachetoryBackend.from_url(server.tcp_url + "?protocol=3"),
    "redis-prefix": lambda server: CachetoryBackend.from_url(server.tcp_url + "?prefix=a%3A"),
    "reference-memory": lambda _: MemoryBackend(),
    "reference-redis": lambda server: RedisBackend.from_url(server.tcp_url),
}


@pytest.fixture(params=BACKENDS)
def backend(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[SyncBackend[bytes]]:
    with BACKENDS[request.param](server) as backend:
        yield backend


def is_there(backend: SyncBackend[bytes], key: str) -> bool:
    try:
        backend.get(key)
    except KeyError:
        return False
    return True


def wait_until_gone(backend: SyncBackend[bytes], key: str) -> None:
    poll(f"{key} never expires", lambda: not is_there(backend, key))


def now() -> datetime:
    return datetime.now(timezone.utc)


def test_a_stored_value_is_found(backend):
    assert backend.set("planet", b"earth") is True
    assert backend.get("planet") == b"earth"


def test_a_missing_key_is_a_key_error(backend):
    with pytest.raises(KeyError):
        backend.get("planet")


def test_a_value_is_overwritten(backend):
    backend.set("planet", b"earth")
    assert backend.set("planet", b"mars") is True
    assert backend.get("planet") == b"mars"


@pytest.mark.parametrize("value", [b"", b"\0", b"\r\n$-1\r\n", bytes(range(256)), b"x" * 200_000])
def test_any_bytes_are_a_value(backend, value):
    backend.set("key", value)
    assert backend.get("key") == value
    assert list(backend.get_many("key")) == [("key", value)]


@pytest.mark.parametrize("key", ["", " ", "ключ", "a\0b", "a\r\nb", "*", "x" * 10_000])
def test_any_text_is_a_key(backend, key):
    backend.set(key, b"value")
    assert backend.get(key) == b"value"
    assert backend.delete(key)


def test_if_not_exists_keeps_the_first_value(backend):
    assert backend.set("planet", b"earth", if_not_exists=True)
    assert not backend.set("planet", b"mars", if_not_exists=True)
    assert backend.get("planet") == b"earth"


def test_if_not_exists_leaves_the_expiry_alone(backend):
    backend.set("short", b"1", time_to_live=timedelta(milliseconds=100))
    backend.set("short", b"2", time_to_live=timedelta(hours=1), if_not_exists=True)
    wait_until_gone(backend, "short")


def test_delete(backend):
    backend.set("planet", b"earth")
    assert backend.delete("planet") is True
    assert not is_there(backend, "planet")
    assert backend.delete("planet") is False


def test_delete_many(backend):
    backend.set_many([("a", b"1"), ("b", b"2"), ("c", b"3")])
    backend.delete_many("a", "c", "missing")
    assert [is_there(backend, key) for key in "abc"] == [False, True, False]
    backend.delete_many()
    assert is_there(backend, "b")


def test_many_values_come_back_in_order_and_without_the_misses(backend):
    backend.set_many([("a", b"1"), ("b", b"2")])
    assert list(backend.get_many("b", "missing", "a", "b")) == [("b", b"2"), ("a", b"1"), ("b", b"2")]


def test_set_many_takes_a_generator(backend):
    backend.set_many((str(i), str(i * i).encode()) for i in range(1000))
    assert dict(backend.get_many(*map(str, range(1000)))) == {str(i): str(i * i).encode() for i in range(1000)}


def test_clear(backend):
    backend.set_many([("a", b"1"), ("b", b"2")])
    backend.clear()
    assert list(backend.get_many("a", "b")) == []
    backend.clear()


TTL = timedelta(milliseconds=100)

EXPIRES: dict[str, Callable[[SyncBackend[bytes]], None]] = {
    "set": lambda backend: backend.set("key", b"value", time_to_live=TTL),
    "set-if-not-exists": lambda backend: backend.set("key", b"value", time_to_live=TTL, if_not_exists=True),
    "expire_in": lambda backend: (backend.set("key", b"value"), backend.expire_in("key", TTL)),
    "expire_at": lambda backend: (backend.set("key", b"value"), backend.expire_at("key", now() + TTL)),
    "expire_in-shortens": lambda backend: (
        backend.set("key", b"value", time_to_live=timedelta(hours=1)),
        backend.expire_in("key", TTL),
    ),
}


@pytest.mark.parametrize("how", EXPIRES)
def test_a_value_is_there_until_it_expires(backend, how):
    started = time.monotonic()
    EXPIRES[how](backend)
    wait_until_gone(backend, "key")
    # Expiry is counted in whole milliseconds, and by another clock than this one.
    assert time.monotonic() - started > (TTL - timedelta(milliseconds=10)).total_seconds()
    assert list(backend.get_many("key")) == []


STAYS: dict[str, Callable[[SyncBackend[bytes], str], object]] = {
    "set": lambda backend, key: backend.set(key, b"value"),
    "set_many": lambda backend, key: backend.set_many([(key, b"value")]),
    "expire_in": lambda backend, key: backend.expire_in(key),
    "expire_at": lambda backend, key: backend.expire_at(key, None),
    "expire_in-lengthens": lambda backend, key: backend.expire_in(key, timedelta(hours=1)),
}


def test_an_expiry_is_cleared(backend):
    first_deadline = now() + timedelta(seconds=1)
    backend.set("witness", b"value")
    backend.set_many((key, b"value") for key in STAYS)
    for key in ("witness", *STAYS):
        backend.expire_at(key, first_deadline)
    for key, clear in STAYS.items():
        clear(backend, key)
    wait_until_gone(backend, "witness")
    assert dict(backend.get_many(*STAYS)) == dict.fromkeys(STAYS, b"value")


def test_a_deadline_in_the_past_is_at_once(backend):
    backend.set("key", b"value")
    backend.expire_at("key", now() - timedelta(hours=1))
    assert not is_there(backend, "key")


def test_expiry_of_a_missing_key_does_nothing(backend):
    backend.expire_in("key", timedelta(hours=1))
    backend.expire_in("key")
    backend.expire_at("key", now() + timedelta(hours=1))
    backend.expire_at("key", None)
    assert not is_there(backend, "key")


def test_the_cache_of_the_reference_implementation_works_on_it(backend):
    cache = PythonCache(serializer=PickleSerializer(), backend=backend, prefix="app:")
    cache["answer"] = 42
    assert cache["answer"] == 42
    assert cache.get("missing", "default") == "default"
    cache.set("answer", 43, if_not_exists=True)
    assert cache.get("answer") == 42
    cache.set_many({"one": [1], "two": {"2": None}})
    assert cache.get("two") == {"2": None}
    assert backend.get("app:one")
    del cache["answer"]
    with pytest.raises(KeyError):
        del cache["answer"]
    cache.delete_many("one", "two")
    assert cache.get("one") is None


def test_dummy_stores_nothing():
    with CachetoryBackend.from_url("dummy://") as backend:
        assert backend.set("key", b"value")
        backend.set_many([("key", b"value")])
        assert not is_there(backend, "key")
        assert list(backend.get_many("key")) == []
        assert not backend.delete("key")
        backend.clear()


def test_an_unknown_scheme_is_an_error():
    with pytest.raises(Exception, match="invalid"):
        CachetoryBackend.from_url("invalid://")
