"""The binding is the header: every function, status and size of it."""

from __future__ import annotations

import ctypes
import re
import select
from pathlib import Path

import pytest

import cachetory_c

HEADER = Path(__file__).parents[2] / "include" / "cachetory.h"


@pytest.fixture(scope="module")
def header() -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", HEADER.read_text(), flags=re.DOTALL)


def test_every_function_is_bound_with_its_number_of_arguments(header):
    declared = {}
    for name, arguments in re.findall(r"\b(cachetory_\w+)\(([^()]*)\);", header):
        declared[name] = 0 if arguments.strip() in ("", "void") else arguments.count(",") + 1
    bound = {name: len(arguments) for name, (_, arguments) in cachetory_c.FUNCTIONS.items()}
    assert declared == bound


def test_every_status_is_bound_with_its_value(header):
    names = r"#define (CACHETORY_(?:OK|NOT_FOUND|NOT_STORED|ERR_\w+)) (-?\d+)\b"
    assert {name: int(value) for name, value in re.findall(names, header)} == cachetory_c.STATUSES


def test_the_library_names_its_statuses():
    for name, value in cachetory_c.STATUSES.items():
        assert cachetory_c.lib.cachetory_status_name(value).decode() == name
    assert cachetory_c.lib.cachetory_status_name(12345)


def test_the_version_is_that_of_the_header(header):
    parts = [re.search(rf"#define CACHETORY_VERSION_{part} (\d+)\b", header)[1] for part in ("MAJOR", "MINOR", "PATCH")]
    assert cachetory_c.lib.cachetory_version().decode() == ".".join(parts)


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the sizes are those of a 64-bit machine")
def test_sizes():
    sizes = {
        cachetory_c.cachetory_t: 8,
        cachetory_c.cachetory_bytes_t: 16,
        cachetory_c.cachetory_item_t: 32,
        cachetory_c.cachetory_value_t: 24,
        cachetory_c.cachetory_values_t: 24,
        cachetory_c.cachetory_error_t: 512,
        cachetory_c.cachetory_queue_t: 8,
        cachetory_c.cachetory_completion_t: 128,
    }
    assert {struct: ctypes.sizeof(struct) for struct in sizes} == sizes


@pytest.fixture
def queue():
    opened = cachetory_c.cachetory_queue_t()
    assert cachetory_c.lib.cachetory_queue_open(ctypes.byref(opened), None) == cachetory_c.OK
    yield opened
    assert cachetory_c.lib.cachetory_queue_close(opened) == cachetory_c.OK


def test_every_operation_has_an_asynchronous_twin(header):
    """With the inputs of the synchronous call after cache, queue and tag, and without its outputs."""
    names = ["ping", "get", "mget", "set", "mset", "expire_in", "expire_at", "delete", "mdelete", "clear"]
    outputs = {"get": 1, "mget": 1, "mdelete": 1}
    for name in names:
        synchronous = cachetory_c.FUNCTIONS[f"cachetory_{name}"][1]
        inputs = synchronous[1 : len(synchronous) - 1 - outputs.get(name, 0)]
        arguments = cachetory_c.FUNCTIONS[f"cachetory_{name}_async"][1]
        assert arguments == [*synchronous[:1], cachetory_c.cachetory_queue_t, ctypes.c_uint64, *inputs, synchronous[-1]]


def test_submit_and_reap_with_select(queue):
    lib = cachetory_c.lib
    cache = cachetory_c.cachetory_t()
    assert lib.cachetory_open_url(b"memory://", ctypes.byref(cache), None) == cachetory_c.OK
    assert lib.cachetory_set(cache, b"key", 3, b"value", 5, cachetory_c.NO_EXPIRY, 0, None) == cachetory_c.OK
    descriptor = lib.cachetory_queue_fd(queue)
    assert select.select([descriptor], [], [], 0)[0] == []
    for tag in range(100):
        assert lib.cachetory_get_async(cache, queue, tag, b"key", 3, None) == cachetory_c.OK
    completions = (cachetory_c.cachetory_completion_t * 16)()
    count = ctypes.c_size_t()
    seen = []
    while len(seen) < 100:
        assert select.select([descriptor], [], [], 60)[0] == [descriptor]
        assert lib.cachetory_queue_wait(queue, completions, 16, 0, ctypes.byref(count), None) == cachetory_c.OK
        for completion in completions[: count.value]:
            assert completion.status == cachetory_c.OK and completion.message is None
            assert ctypes.string_at(completion.value.data, completion.value.len) == b"value"
            seen.append(completion.tag)
            lib.cachetory_completion_free(ctypes.byref(completion))
    assert sorted(seen) == list(range(100))
    assert select.select([descriptor], [], [], 0)[0] == []
    assert lib.cachetory_close(cache) == cachetory_c.OK
