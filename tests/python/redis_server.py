"""A private redis-server: on a Unix socket and, where asked, on a free TCP port, in a directory of its own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import redis

from polling import poll

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """For `preexec_fn`: what is started ends with the tests, even if those are killed."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _executable() -> str:
    name = os.environ.get("CACHETORY_REDIS_SERVER") or shutil.which("redis-server")
    if name is None:
        raise RuntimeError("no redis-server: install it, or name it in CACHETORY_REDIS_SERVER")
    return name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    def __init__(self, tcp: bool = True) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="cachetory-")
        self.socket = Path(self._directory.name) / "redis.sock"
        self.log = Path(self._directory.name) / "log"
        # Somebody else may take the port between the look and the server's bind.
        for _attempt in range(5):
            self.port = _free_port() if tcp else 0
            self._start()
            if self._is_ready():
                return
            self.kill()
        log = self.log.read_text()
        self._directory.cleanup()
        raise RuntimeError(f"redis-server does not start:\n{log}")

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    def _start(self) -> None:
        command = [_executable(), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--unixsocket", str(self.socket), "--dir", self._directory.name]
        command += ["--save", "", "--appendonly", "no"]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return client.ping()
        except redis.ConnectionError:
            return False

    def _is_ready(self) -> bool:
        poll(
            "redis-server neither starts nor ends", lambda: self._process.poll() is not None or self._answers()
        )
        return self._process.poll() is None

    def client(self, **options) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), **options)

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def start_again(self) -> None:
        """After a kill, where the same clients look for it."""
        self._start()
        assert self._is_ready(), self.log.read_text()

    def freeze(self) -> None:
        """It keeps its connections, and neither reads nor answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        # A frozen one would not hear of a gentler end, and there is nothing that it should save.
        self.kill()
        self._directory.cleanup()
