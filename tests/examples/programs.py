"""Running what the examples were built to, and building it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES_C = ROOT / "examples-c"
EXAMPLES_GO = ROOT / "examples-go"
EXAMPLES_SWIFT = ROOT / "examples-swift"

EXAMPLES = ["quickstart", "cache_aside", "batches", "expiry", "claim", "threads", "errors", "coroutines"]
SERVERS = ["server_poll", "server_uv", "server_event"]

VALGRIND = [
    "valgrind",
    "-q",
    "--leak-check=full",
    "--show-leak-kinds=definite,indirect,possible",
    "--errors-for-leak-kinds=definite,indirect,possible",
    "--error-exitcode=99",
]
# Nothing takes that long; it keeps what hangs from hanging for ever.
LONGEST = 600


def run(
    command, input: bytes = b"", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Runs a program to its end."""
    command = [str(word) for word in command]
    whole = {**os.environ, **environment}
    return subprocess.run(command, input=input, capture_output=True, timeout=LONGEST, cwd=cwd, env=whole)


def succeeds(command, input: bytes = b"", **environment: str) -> subprocess.CompletedProcess:
    done = run(command, input, **environment)
    assert done.returncode == 0, f"exit code {done.returncode} of {command}:\n{said_by(done)}"
    return done


def said_by(done: subprocess.CompletedProcess) -> str:
    return (done.stdout + done.stderr).decode(errors="replace")


def expected_of(example: str) -> str:
    return (EXAMPLES_C / "expected" / f"{example}.txt").read_text()


def prints(expected: str, command, quietly: bool = True, **environment: str) -> None:
    """The program succeeds and prints just that; quietly: and nothing to stderr."""
    done = run(command, **environment)
    complaints = done.stderr.decode(errors="replace")
    assert (done.stdout.decode(errors="replace"), done.returncode) == (expected, 0), complaints
    assert not quietly or complaints == ""


def needs_the_library(program: Path) -> bool:
    """Whether it is linked with the shared library."""
    dynamic = succeeds(["readelf", "-d", program]).stdout.decode()
    return any("NEEDED" in line and "libcachetory" in line for line in dynamic.splitlines())


# How the examples are built: a folder for each way, and the steps that lead there.
BUILDS = {
    "pkg-config": ["make"],
    "clang": ["make with clang"],
    "static": ["make, static"],
    "CMake": ["cmake configures", "cmake builds"],
    "CMake, static": ["cmake configures, static", "cmake builds, static"],
    "go": ["go build"],
    "swift": ["swiftc"],
}
STEPS_IN_C = [
    step for way in ("pkg-config", "clang", "static", "CMake", "CMake, static") for step in BUILDS[way]
]


class Installed:
    """The installed library, and what is built against it below `out`: each way once, when it is first asked for."""

    def __init__(self, prefix: Path, out: Path) -> None:
        self.prefix, self.out = prefix, out
        self.pkg_config = {"PKG_CONFIG_PATH": str(next(prefix.rglob("cachetory.pc")).parent)}
        asked = succeeds(["pkg-config", "--variable=libdir", "cachetory"], **self.pkg_config)
        self.libdir = Path(asked.stdout.decode().strip())
        self.loader = {"LD_LIBRARY_PATH": str(self.libdir)}
        # Offline, with the Go that is installed, and with a build cache that outlives this run: cgo takes a while.
        self.go = {
            "CGO_ENABLED": "1",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-buildvcs=false",
            "GOCACHE": os.environ.get("GOCACHE", str(ROOT / "build" / "go-cache")),
        }
        self._done: dict[str, subprocess.CompletedProcess] = {}

    def _make(self, way: str, *variables: str) -> list:
        return ["make", "-s", "-C", EXAMPLES_C, f"BUILD={self.out / way}", "CFLAGS=-O2 -g -Werror", *variables]

    def _configure(self, way: str, *definitions: str) -> list:
        strict = [f"-DCMAKE_{language}_FLAGS=-O2 -g -Werror" for language in ("C", "CXX")]
        where = ["-S", EXAMPLES_C, "-B", self.out / way, f"-DCMAKE_PREFIX_PATH={self.prefix}"]
        return ["cmake", *where, *strict, *definitions]

    def _command(self, step: str) -> list:
        swift = ["swiftc", "-I", ROOT / "include", "-L", self.libdir, EXAMPLES_SWIFT / "main.swift"]
        return {
            "make": self._make("pkg-config"),
            "make with clang": self._make("clang", "CC=clang", "CXX=clang++"),
            "make, static": self._make("static", "STATIC=1"),
            "cmake configures": self._configure("CMake"),
            "cmake builds": ["cmake", "--build", self.out / "CMake", "-j", "2"],
            "cmake configures, static": self._configure(
                "CMake, static", "-DCACHETORY_TARGET=cachetory::static"
            ),
            "cmake builds, static": ["cmake", "--build", self.out / "CMake, static", "--target", "quickstart"],
            "go build": ["go", "build", "-o", self.out / "go" / "example", "."],
            "swiftc": [*swift, "-o", self.out / "swift" / "example"],
        }[step]

    def step(self, step: str) -> subprocess.CompletedProcess:
        """What the step said. It is done once."""
        if step not in self._done:
            folder = EXAMPLES_GO if step.startswith("go") else None
            self._done[step] = run(self._command(step), cwd=folder, **self.pkg_config, **self.go)
        return self._done[step]

    def program(self, way: str, name: str = "example") -> Path:
        """A program that was built this way."""
        for step in BUILDS[way]:
            done = self.step(step)
            assert done.returncode == 0, f"{step} failed:\n{said_by(done)}"
        return self.out / way / name
