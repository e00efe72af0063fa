"""What the examples print: on memory, on Redis, without either, and under valgrind."""

from __future__ import annotations

import re
import shutil

import pytest

from programs import EXAMPLES, EXAMPLES_GO, EXAMPLES_SWIFT, VALGRIND, expected_of, prints, run

WAYS = ["pkg-config", "CMake", "static"]


def is_quiet(example: str) -> bool:
    """All but the one that is about errors."""
    return example != "errors"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_output_on_memory(installed, example, way):
    prints(expected_of(example), [installed.program(way, example)], is_quiet(example))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("example", EXAMPLES)
def test_output_on_redis_where_nothing_is_left(installed, server, client, example, way):
    prints(expected_of(example), [installed.program(way, example), server.unix_url], is_quiet(example))
    assert client.keys() == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_output_under_valgrind(installed, example):
    prints(expected_of(example), [*VALGRIND, installed.program("pkg-config", example)], quietly=False)


def test_the_url_may_come_from_the_environment(installed, server, client):
    before = client.info("stats")["total_connections_received"]
    program = installed.program("pkg-config", "quickstart")
    prints(expected_of("quickstart"), [program], CACHETORY_URL=server.unix_url)
    assert client.info("stats")["total_connections_received"] > before


@pytest.mark.parametrize("word", ["redsi", "sokcet_timeout", "max_bytes", "/nonexistent/redis.sock"])
def test_a_message_of_errors_names_what_is_wrong(installed, word):
    messages = run([installed.program("pkg-config", "errors")]).stderr.decode()
    # Each line is "errors: WHAT: MESSAGE", where WHAT may hold the word as well.
    pattern = rf": .*{re.escape(word)}.*: .*{re.escape(word)}|no server: .*{re.escape(word)}"
    assert re.search(pattern, messages), messages


@pytest.fixture
def all_computed() -> str:
    return re.sub(r", cached$", ", computed", expected_of("cache_aside"), flags=re.MULTILINE)


def test_cache_aside_computes_all_without_a_cache(installed, all_computed):
    prints(all_computed, [installed.program("pkg-config", "cache_aside"), "dummy://"])


def test_cache_aside_computes_all_without_its_server(installed, all_computed, tmp_path):
    url = f"unix://{tmp_path}/none.sock"
    prints(all_computed, [installed.program("pkg-config", "cache_aside"), url], quietly=False)


def test_go_output_on_memory(installed):
    prints(
        (EXAMPLES_GO / "expected.txt").read_text(), [installed.program("go")], quietly=False, **installed.loader
    )


def test_go_output_on_redis(installed, server):
    expected = (EXAMPLES_GO / "expected.txt").read_text()
    prints(expected, [installed.program("go"), server.unix_url], quietly=False, **installed.loader)


@pytest.mark.skipif(shutil.which("swiftc") is None, reason="there is no swiftc")
def test_swift_output_on_memory(installed):
    expected = (EXAMPLES_SWIFT / "expected.txt").read_text()
    prints(expected, [installed.program("swift")], quietly=False, **installed.loader)


@pytest.mark.skipif(shutil.which("swiftc") is None, reason="there is no swiftc")
def test_swift_output_on_redis(installed, server):
    expected = (EXAMPLES_SWIFT / "expected.txt").read_text()
    prints(expected, [installed.program("swift"), server.unix_url], quietly=False, **installed.loader)
