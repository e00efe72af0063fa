"""What cachetory-cli answers: byte for byte and code for code."""

from __future__ import annotations

import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from polling import poll
from programs import VALGRIND, run, said_by, succeeds

DONE, NO, USAGE, TRY_AGAIN, FAILED = range(5)
EVERY_BYTE = bytes(range(256))
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NEVER = [-1, -1]


@pytest.fixture
def cli(installed):
    """Runs it with these arguments."""
    program = installed.program("pkg-config", "cachetory-cli")

    def answers(*arguments, **more) -> subprocess.CompletedProcess:
        return run([program, *arguments], **more)

    answers.program = program
    return answers


@pytest.fixture
def on_redis(cli, server):
    """The same, on the Redis that the environment names."""
    return lambda *arguments, **more: cli(*arguments, **{"CACHETORY_URL": server.unix_url, **more})


def gives(done: subprocess.CompletedProcess, code: int, output: bytes = b"") -> None:
    assert (done.returncode, done.stdout) == (code, output), said_by(done)
    # Whoever fails says why, on stderr; a mere no is silent.
    if code >= USAGE:
        lines = done.stderr.splitlines()
        assert any(line.startswith(b"cachetory-cli: ") and len(line) > 15 for line in lines), said_by(done)
    else:
        assert done.stderr == b""


def named(line: str) -> str:
    return line or "nothing"


# Without a URL it is on memory://, which is empty at the start.
ON_MEMORY = [
    ("ping", DONE, b"PONG\n"),
    ("get example:a", NO, b""),
    ("set example:a one", DONE, b""),
    ("mget example:a example:b", NO, b"-\n-\n"),
    ("mset example:a one example:b two --ttl 5m", DONE, b""),
    ("expire example:a 90s", NO, b""),
    ("delete example:a example:b", NO, b"0\n"),
    ("clear", DONE, b""),
]


@pytest.mark.parametrize("line, code, output", ON_MEMORY, ids=[line for line, _, _ in ON_MEMORY])
def test_on_memory(cli, line, code, output):
    gives(cli(*line.split()), code, output)


def test_the_short_option_prints_the_same_version(cli):
    version = cli("--version").stdout
    assert version.strip()
    gives(cli("-V"), DONE, version)


def test_the_help_tells_the_exit_codes(cli):
    done = cli("--help")
    assert done.returncode == DONE
    assert b"\nexit codes:\n" in done.stdout


WRONG_LINES = ["", "frobnicate", "get", "get a b", "set", "mset a", "mset a 1 b", "clear now", "get a --ttl 5s"]
WRONG_LINES += [
    "mset a 1 --nx",
    "set a 1 --ttl",
    "set a 1 --ttl 0s",
    "expire a soon",
    "expire a @",
    "expire a @1x",
]


@pytest.mark.parametrize("line", WRONG_LINES, ids=named)
def test_a_wrong_line_is_refused(cli, line):
    gives(cli(*line.split()), USAGE)


WRONG_TIMES = ["5", "", "s", "-1s", "1.5s", "5x", " 5s"]
WRONG_TIMES += ["9223372036854775807s", "9223372036854775807ms", "99999999999999999999s"]


@pytest.mark.parametrize("time", WRONG_TIMES, ids=named)
def test_a_wrong_time_is_refused(cli, time):
    gives(cli("set", "a", "1", "--ttl", time), USAGE)


def test_an_unknown_option_is_refused_and_named(cli):
    done = cli("get", "--frob")
    gives(done, USAGE)
    assert b"--frob" in done.stderr


def test_an_unknown_scheme_is_refused_and_named(cli):
    done = cli("-u", "nonsense://localhost", "ping")
    gives(done, USAGE)
    assert b"nonsense" in done.stderr


def test_a_url_s_unknown_option_is_named_and_its_password_is_not(cli):
    done = cli("-u", "redis://:hunter2@localhost?frob=1", "ping")
    gives(done, USAGE)
    assert b"frob" in done.stderr
    assert b"hunter2" not in done.stderr


def test_an_empty_url_is_refused(cli):
    gives(cli("-u", "", "ping"), USAGE)


def test_a_missing_url_is_refused(cli):
    gives(cli("ping", "-u"), USAGE)


@pytest.mark.parametrize("line", ["ping", "set example:a one"])
def test_no_server_is_worth_another_try(cli, tmp_path, line):
    gives(cli("-u", f"unix://{tmp_path}/none.sock", *line.split()), TRY_AGAIN)


def test_a_refused_password_is_not_named(cli, server):
    done = cli("-u", server.unix_url.replace("unix://", "unix://:hunter2@"), "ping")
    gives(done, FAILED)
    assert b"hunter2" not in done.stderr


def test_the_url_may_be_an_option(cli, server):
    gives(cli("-u", server.unix_url, "ping"), DONE, b"PONG\n")


@pytest.mark.parametrize("option", [["-u", "memory://"], ["--url=memory://"]], ids=" ".join)
def test_the_option_wins_over_the_environment(on_redis, client, option):
    client.set("example:a", "one")
    gives(on_redis(*option, "get", "example:a"), NO)


# The values on the server before; the line; what it gives; the values afterwards.
A, AB = {"example:a": "one"}, {"example:a": "one", "example:b": "-"}
ON_REDIS = [
    ({}, ["ping"], DONE, b"PONG\n", {}),
    ({}, ["get", "example:a"], NO, b"", {}),
    ({}, ["set", "example:a", "one"], DONE, b"", A),
    (A, ["get", "example:a"], DONE, b"one", A),
    (A, ["set", "example:a", ""], DONE, b"", {"example:a": ""}),
    ({"example:a": ""}, ["get", "example:a"], DONE, b"", {"example:a": ""}),
    ({}, ["set", "--", "-key", "-5"], DONE, b"", {"-key": "-5"}),
    ({"-key": "-5"}, ["get", "--", "-key"], DONE, b"-5", {"-key": "-5"}),
    (A, ["set", "example:b", "-", "--ttl", "never"], DONE, b"", AB),
    (AB, ["get", "example:b"], DONE, b"-", AB),
    (
        {"example:a": "", "example:b": "-"},
        ["mget", "example:a", "example:c", "example:b", "example:a"],
        DONE,
        b"0 \n-\n1 -\n0 \n",
        {"example:a": "", "example:b": "-"},
    ),
    ({"-key": "-5", **AB}, ["delete", "--", "-key", "example:a", "example:b", "example:c"], DONE, b"3\n", {}),
    (A, ["set", "example:a", "two", "--nx"], NO, b"", A),
    (A, ["set", "example:a", "three"], DONE, b"", {"example:a": "three"}),
    ({"example:a": "three"}, ["get", "example:a"], DONE, b"three", {"example:a": "three"}),
    (A, ["expire", "example:a", "0s"], DONE, b"", {}),
    ({}, ["expire", "example:a", "1h"], NO, b"", {}),
    (
        {"example:a": "one", "example:b": ""},
        ["mget", "example:a", "example:b"],
        DONE,
        b"3 one\n0 \n",
        {"example:a": "one", "example:b": ""},
    ),
    (A, ["expire", "example:a", "@1"], DONE, b"", {}),
    (AB, ["clear"], DONE, b"", {}),
]


@pytest.mark.parametrize(
    "before, words, code, output, after", ON_REDIS, ids=[" ".join(each[1]) for each in ON_REDIS]
)
def test_on_redis(on_redis, client, before, words, code, output, after):
    for key, value in before.items():
        client.set(key, value)
    gives(on_redis(*words), code, output)
    assert {key.decode(): client.get(key).decode() for key in client.keys()} == after


# The line, the key, and between what its ttl is afterwards. It takes its time on a busy machine.
TTLS = [
    ("set example:new one --nx --ttl=90s", "example:new", [MINUTE // 2, 90_000]),
    ("set example:a three --ttl 90s", "example:a", [MINUTE // 2, 90_000]),
    ("expire example:a 2h", "example:a", [2 * HOUR - MINUTE, 2 * HOUR]),
    ("expire example:a never", "example:a", NEVER),
    ("set example:a one --ttl never", "example:a", NEVER),
    ("mset example:a one example:b two --ttl 1d", "example:a", [DAY - MINUTE, DAY]),
    ("mset example:a one example:b two --ttl 1d", "example:b", [DAY - MINUTE, DAY]),
]


@pytest.mark.parametrize("line, key, ttl", TTLS, ids=[f"{line}: {key}" for line, key, _ in TTLS])
def test_the_ttl_on_the_server(on_redis, client, line, key, ttl):
    client.set("example:a", "one", px=1000 * DAY)
    gives(on_redis(*line.split()), DONE)
    assert ttl[0] <= client.pttl(key) <= ttl[1]


def test_the_ttl_until_a_point_in_time(on_redis, client):
    client.set("example:a", "one")
    gives(on_redis("expire", "example:a", f"@{int(time.time()) + 3600}"), DONE)
    assert HOUR - MINUTE <= client.pttl("example:a") <= HOUR + 1000


def test_a_key_expires(on_redis):
    gives(on_redis("set", "example:a", "one", "--ttl", "300ms"), DONE)
    gone = poll("it never expires", lambda: done if (done := on_redis("get", "example:a")).returncode else None)
    gives(gone, NO)


def test_of_eight_processes_one_has_the_claim(on_redis, client):
    def claim(number: int) -> int:
        return on_redis("set", "example:claim", f"process {number}", "--nx", "--ttl", "30s").returncode

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(claim, range(8)))
    assert sorted(codes) == [DONE] + 7 * [NO]
    assert client.get("example:claim").decode() == f"process {codes.index(DONE)}"


VALUES = {"every byte": EVERY_BYTE, "no byte": b"", "3 MB": random.Random(1).randbytes(3_000_000)}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_bytes_by_standard_input_come_back(on_redis, value):
    gives(on_redis("set", "example:binary", "--ttl", "1m", input=value), DONE)
    gives(on_redis("get", "example:binary"), DONE, value)


def test_another_program_reads_the_same_bytes(on_redis, client, server):
    gives(on_redis("set", "example:line", input=EVERY_BYTE), DONE)
    assert client.get("example:line") == EVERY_BYTE
    assert (
        succeeds(["redis-cli", "-s", server.socket, "--raw", "get", "example:line"]).stdout
        == EVERY_BYTE + b"\n"
    )


def test_mget_gives_every_byte(on_redis, client):
    client.set("example:line", EVERY_BYTE)
    gives(on_redis("mget", "example:line"), DONE, b"256 " + EVERY_BYTE + b"\n")


def test_a_full_disk_is_a_failure(cli, server, client):
    client.set("example:line", EVERY_BYTE)
    with open("/dev/full", "wb") as full:
        command = [cli.program, "-u", server.unix_url, "get", "example:line"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == FAILED
    assert done.stderr.startswith(b"cachetory-cli: ")


def test_the_prefix_is_put_before_the_key(cli, server, client):
    gives(cli("-u", f"{server.unix_url}?prefix=mine:", "set", "a", "1"), DONE)
    assert {key: client.get(key) for key in client.keys()} == {b"mine:a": b"1"}


def test_clear_leaves_alone_what_has_another_prefix(cli, server, client):
    client.mset({"mine:a": "1", "example:a": "one"})
    gives(cli("-u", f"{server.unix_url}?prefix=mine:", "clear"), DONE)
    assert client.keys() == [b"example:a"]


UNDER_VALGRIND = ["ping", "get a", "set a", "mset a 1 b 2", "clear", "set a 1 --ttl 1s --nx", "get a --frob"]
UNDER_VALGRIND += ["-u x:// ping", "mget a b"]


@pytest.mark.parametrize("line", UNDER_VALGRIND)
def test_valgrind_finds_nothing(cli, line):
    done = run([*VALGRIND, cli.program, *line.split()])
    assert done.returncode <= FAILED, said_by(done)
