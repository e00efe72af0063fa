"""The example HTTP servers, and clients that are as good or as bad as a test wants them."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import tempfile

from polling import PATIENCE, poll
from redis_server import die_with_parent

Answer = tuple[int, bytes, bool]  # the status, the body, whether the connection goes on


class Server:
    """The server under test, on a port of its own. Leaving it by `with`, it must end by SIGTERM with exit code 0."""

    def __init__(self, command, url: str, seconds: int = PATIENCE, most_files: int | None = None) -> None:
        def prepare() -> None:
            die_with_parent()
            if most_files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))

        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*map(str, command), url, "0", str(seconds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            preexec_fn=prepare,
        )
        line = self.process.stdout.readline().decode()
        match = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line)
        if match is None:
            self.kill()
        assert match, f"{line!r} {self.complaints()}"
        self.port = int(match[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is not None:
                print(self.complaints())
            elif self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.ends_well()
        finally:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ends_well(self) -> None:
        code = self.process.wait(PATIENCE)
        assert code == 0, f"exit code {code}: {self.complaints()}"

    def complaints(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def has_descriptors(self, most: int, what: str) -> None:
        """It comes to have no more than that, or the test fails with `what`."""
        poll(what, lambda: self.descriptors() <= most)


class Client:
    """A connection, of which every byte can be chosen."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self.input += data
        return data != b""

    def answer(self, method: str = "GET") -> Answer:
        while b"\r\n\r\n" not in self.input:
            assert self.more(), f"no answer, but {self.input!r}"
        head, self.input = self.input.split(b"\r\n\r\n", 1)
        status, length, goes_on = read_head(head)
        length = 0 if method == "HEAD" else length
        while len(self.input) < length:
            assert self.more(), "half an answer"
        body, self.input = self.input[:length], self.input[length:]
        return status, body, goes_on

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        self.send(request(method, path, body))
        return self.answer(method)

    def ended(self) -> bool:
        """The server has closed the connection, and sent nothing else."""
        while self.more():
            pass
        return self.input == b""

    def vanish(self) -> None:
        """A reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Connection:
    """One of many clients in this process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, server: Server) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 21))

    async def answer(self, method: str = "GET") -> Answer:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, length, goes_on = read_head(head[:-4])
        return status, await self.reader.readexactly(0 if method == "HEAD" else length), goes_on

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        self.writer.write(request(method, path, body))
        return await self.answer(method)


def read_head(head: bytes) -> tuple[int, int, bool]:
    """The status, the body's length, and whether the connection goes on."""
    lines = head.decode().split("\r\n")
    match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z ]+", lines[0])
    assert match, head
    fields = dict(line.split(": ", 1) for line in lines[1:])
    status = int(match[1])
    assert (status in (100, 204)) == ("Content-Length" not in fields), head
    return status, int(fields.get("Content-Length", 0)), status == 100 or fields["Connection"] == "keep-alive"


def request(method: str, path: str, body: bytes | None = None, fields: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}"
    if body is not None:
        head += f"Content-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


def equal(actual, expected) -> None:
    """pytest would show the whole of a megabyte."""
    assert actual == expected, f"{actual!r:.200} is not {expected!r:.200}"
