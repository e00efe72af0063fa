"""A private redis-server: on a free TCP port and on a Unix socket at once, in a directory of its own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import redis

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
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
    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="cachetory-")
        self.socket = Path(self._directory.name) / "redis.sock"
        self.log = Path(self._directory.name) / "log"
        # Somebody else may take the port between the look and the server's bind.
        for _attempt in range(5):
            self.port = _free_port()
            self._process = self._start()
            if self._is_ready():
                return
            self._process.kill()
            self._process.wait()
        log = self.log.read_text()
        self._directory.cleanup()
        raise RuntimeError(f"redis-server does not start:\n{log}")

    def _start(self) -> subprocess.Popen:
        command = [_executable(), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--unixsocket", str(self.socket), "--dir", self._directory.name]
        command += ["--save", "", "--appendonly", "no"]
        with self.log.open("w") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )

    def _is_ready(self) -> bool:
        deadline = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with self.client() as client:
                    return client.ping()
            except redis.ConnectionError:
                time.sleep(0.01)
        return False

    def client(self, **options) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), **options)

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._directory.cleanup()
