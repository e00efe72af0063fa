"""The example HTTP servers among many clients at once."""

from __future__ import annotations

import asyncio
import random
import signal

from http_clients import Connection, Server, equal, request
from polling import PATIENCE, pause


async def member(server: Server, number: int, rounds: int) -> None:
    """One of the crowd, with keys of its own, whose every answer is known."""
    connection = await Connection.to(server)
    for i in range(rounds):
        path = f"/example:crowd:{number}:{i % 2}"
        value = random.randbytes(random.choice([0, 1, 100, 5000, 100_000]))
        equal(await connection.ask("PUT", path, value), (204, b"", True))
        equal(await connection.ask("GET", path), (200, value, True))
        for _ in range(4):
            connection.writer.write(request("HEAD", path) + request("GET", path))
        for _ in range(4):
            equal(await connection.answer("HEAD"), (200, b"", True))
            equal(await connection.answer(), (200, value, True))
        equal(await connection.ask("DELETE", path), (204, b"", True))
        equal(await connection.ask("GET", path), (404, b"", True))
    connection.writer.close()


def test_each_of_a_crowd_has_its_own_answers(serving, case):
    async def crowd():
        members = (member(serving, number, case.rounds) for number in range(case.clients))
        await asyncio.wait_for(asyncio.gather(*members), 4 * PATIENCE)

    asyncio.run(crowd())


async def asks_until_the_end(connection: Connection, number: int) -> None:
    value = b"%d," % number * 3000
    try:
        equal((await connection.ask("PUT", f"/example:stop:{number}", value))[0], 204)
        goes_on = True
        while goes_on:
            status, body, goes_on = await connection.ask("GET", f"/example:stop:{number}")
            equal((status, body), (200, value))
    except asyncio.IncompleteReadError as error:
        equal(error.partial, b"")  # the end came between two answers
    except ConnectionError:
        pass


def test_sigterm_in_a_crowd_lets_what_was_begun_be_answered(case):
    async def stop(server: Server):
        idle = await Connection.to(server)
        connections = [await Connection.to(server) for _ in range(min(case.clients, 50))]
        asking = [asyncio.create_task(asks_until_the_end(*each[::-1])) for each in enumerate(connections)]
        equal((await idle.ask("GET", "/example:none"))[0], 404)
        server.process.send_signal(signal.SIGTERM)
        equal(await asyncio.wait_for(idle.reader.read(), PATIENCE), b"")
        await asyncio.wait_for(asyncio.gather(*asking), PATIENCE)

    with case.serve(case.url) as server:
        asyncio.run(stop(server))
        server.ends_well()


def test_more_clients_than_descriptors_are_all_served_in_the_end(program):
    """Some wait, or are turned away and come again."""

    async def visitor(server: Server, number: int):
        path = f"/example:crowded:{number}"
        while True:
            try:
                connection = await Connection.to(server)
                equal((await connection.ask("PUT", path, b"value"))[0], 204)
                equal(await connection.ask("GET", path), (200, b"value", True))
                connection.writer.close()
                return
            except (ConnectionError, asyncio.IncompleteReadError):
                await pause()

    async def visitors(server: Server):
        await asyncio.wait_for(asyncio.gather(*(visitor(server, number) for number in range(150))), PATIENCE)

    with Server([program], "memory://", most_files=40) as server:
        asyncio.run(visitors(server))
