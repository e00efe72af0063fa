from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from http_clients import Client, Server, equal
from polling import PATIENCE
from programs import SERVERS, VALGRIND, Installed
from redis_server import RedisServer

# Who runs the tests may have a cache or a library of their own.
for name in ("CACHETORY_URL", "LD_LIBRARY_PATH"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(Path(os.environ["CACHETORY_PREFIX"]), tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session")
def running_server() -> Iterator[RedisServer]:
    with RedisServer(tcp=False) as server:
        yield server


@pytest.fixture
def server(running_server: RedisServer) -> RedisServer:
    """The one Redis, emptied for each test."""
    with running_server.client() as client:
        client.flushall()
    return running_server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """Another program's eyes: what is really in the server."""
    with server.client() as client:
        yield client


@dataclass
class Case:
    """One of the HTTP servers, as it was built, on a cache; and how much a test asks of it."""

    command: list
    url: str
    vanishing: int = 20
    clients: int = 200
    rounds: int = 4

    @property
    def under_valgrind(self) -> bool:
        return self.command[0] == "valgrind"

    def serve(self, url: str, seconds: int = PATIENCE) -> Server:
        return Server(self.command, url, seconds)


CASES = [f"{server}-{where}" for server in SERVERS for where in ("memory", "clang", "redis", "valgrind")]


@pytest.fixture(params=CASES)
def case(installed: Installed, server: RedisServer, request: pytest.FixtureRequest) -> Case:
    name, where = request.param.split("-")
    program = installed.program("clang" if where == "clang" else "pkg-config", name)
    if where == "valgrind":
        return Case([*VALGRIND, program], "memory://", vanishing=2, clients=30, rounds=1)
    return Case([program], server.unix_url if where == "redis" else "memory://")


@pytest.fixture
def serving(case: Case) -> Iterator[Server]:
    """A server that in the end has complained of nothing and has closed its clients' descriptors."""
    # Descriptors are counted, so there is a bound on the library's own.
    with case.serve(f"{case.url}?max_connections=8") as server:
        with Client(server) as client:
            equal(client.ask("GET", "/example:none"), (404, b"", True))
            before = server.descriptors()
        yield server
        if server.process.poll() is None and not case.under_valgrind:
            server.has_descriptors(before + 15, "descriptors are left over")
        equal(server.complaints(), "")


@pytest.fixture
def impatient(case: Case) -> Iterator[Server]:
    """One that gives its clients a second."""
    with case.serve(f"{case.url}?max_connections=1", seconds=1) as server:
        yield server


@pytest.fixture(params=SERVERS)
def program(installed: Installed, request: pytest.FixtureRequest) -> Path:
    return installed.program("pkg-config", request.param)
