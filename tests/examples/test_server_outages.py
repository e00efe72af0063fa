"""The example HTTP servers where the cache's server is killed, frozen and started again under connections that stay."""

from __future__ import annotations

import asyncio
import select
import signal
from collections.abc import Iterator

import pytest

from http_clients import Client, Connection, Server, equal, request
from polling import PATIENCE, pause, poll_async
from redis_server import RedisServer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """One of its own, for it is not spared."""
    with RedisServer(tcp=False) as server:
        yield server


async def outage(server: Server, redis: RedisServer) -> None:
    clients = 30
    seen: list[list[int]] = [[] for _ in range(clients)]  # by client, the statuses since the last change
    finished = False

    async def asks_on(number: int):
        connection = await Connection.to(server)
        path, value = f"/example:outage:{number}", b"%d" % number * 100
        while not finished:
            status, body, goes_on = await connection.ask("GET", path)
            assert status in (200, 404, 503, 504) and goes_on, status
            equal(body, value if status == 200 else b"")
            if status == 404:
                stored = await connection.ask("PUT", path, value)
                assert stored[0] in (204, 503, 504), stored
            seen[number].append(status)
            if status >= 500:
                await pause()

    tasks = [asyncio.create_task(asks_on(number)) for number in range(clients)]

    async def all_see(what: str, status: int):
        def have_all() -> bool:
            for task in tasks:
                if task.done():
                    task.result()
            return all(status in each for each in seen)

        for each in seen:
            each.clear()
        await poll_async(lambda: f"{what}: {[each[-3:] for each in seen]}", have_all)

    await all_see("no answers", 200)
    for _ in range(2):
        redis.kill()
        await all_see("the server is gone", 503)
        redis.start_again()
        await all_see("no recovery", 200)
        redis.freeze()
        await all_see("the server is frozen", 504)
        redis.thaw()
        await all_see("no recovery from the frost", 200)
    finished = True
    await asyncio.gather(*tasks)


def test_an_outage_is_told_and_survived(program, redis):
    with Server([program], f"{redis.unix_url}?socket_timeout=0.5") as server:
        asyncio.run(outage(server, redis))
        lines = server.complaints().splitlines()
        assert len(lines) >= 2, lines


def has_been_read(server: Server) -> None:
    """When this returns, the server has read what was sent before: it reads in order, and this it answers at once."""
    with Client(server) as client:
        equal(client.ask("GET", "nonsense")[0], 400)


def test_the_end_waits_for_the_answer_that_is_outstanding(program, redis):
    with Server([program], f"{redis.unix_url}?socket_timeout=0.5") as server, Client(server) as client:
        equal(client.ask("PUT", "/example:a", b"one")[0], 204)
        redis.freeze()
        client.send(request("GET", "/example:a"))
        has_been_read(server)
        server.process.send_signal(signal.SIGTERM)
        equal(client.answer()[::2], (504, False))
        server.ends_well()


def test_an_answer_does_not_go_to_who_came_after_its_client(program, redis):
    with Server([program], f"{redis.unix_url}?socket_timeout={PATIENCE}") as server:
        with Client(server) as client:
            equal(client.ask("PUT", "/example:a", b"one")[0], 204)
            equal(client.ask("PUT", "/example:b", b"two")[0], 204)
            before = server.descriptors() - 1
        server.has_descriptors(before, "a client is left over")
        redis.freeze()
        gone = Client(server)
        gone.send(request("GET", "/example:a"))
        has_been_read(server)
        gone.vanish()
        server.has_descriptors(before, "a client is left over")
        with Client(server) as client:
            client.send(request("GET", "/example:b"))
            has_been_read(server)
            redis.thaw()
            equal(client.answer(), (200, b"two", True))


def test_of_two_calls_one_is_too_many_where_one_may_be_pending(program, redis):
    with Server([program], f"{redis.unix_url}?socket_timeout={PATIENCE}&max_pending=1") as server:
        with Client(server) as first, Client(server) as second:
            equal(first.ask("PUT", "/example:a", b"one")[0], 204)
            redis.freeze()
            for client in first, second:
                client.send(request("GET", "/example:a"))
            answered = select.select([first.socket, second.socket], [], [], PATIENCE)[0]
            equal(len(answered), 1)
            refused, served = (first, second) if answered[0] is first.socket else (second, first)
            equal(refused.answer(), (503, b"", True))
            redis.thaw()
            equal(served.answer(), (200, b"one", True))
