from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from cachetory.backends.sync import RedisBackend
from cachetory.caches.sync import Cache as PythonCache
from cachetory.serializers import NoopSerializer

import cachetory_c
from redis_server import RedisServer


@pytest.fixture(scope="session")
def running_server() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(running_server: RedisServer) -> RedisServer:
    """The one server, emptied for each test."""
    with running_server.client() as client:
        client.flushall()
    return running_server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """The redis package."""
    with server.client() as client:
        yield client


@pytest.fixture(params=["tcp", "unix"])
def ours(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[cachetory_c.Cache]:
    """This library, through C."""
    with cachetory_c.Cache(server.tcp_url if request.param == "tcp" else server.unix_url) as cache:
        yield cache


@pytest.fixture
def original(server: RedisServer) -> Iterator[PythonCache]:
    """The cachetory package, with the value as it is on the wire."""
    with python_cache(server) as cache:
        yield cache


def python_cache(server: RedisServer, prefix: str = "") -> PythonCache:
    backend = RedisBackend.from_url(server.tcp_url)
    return PythonCache(serializer=NoopSerializer(), backend=backend, prefix=prefix)
