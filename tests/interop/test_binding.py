"""The binding is the header: every function, status and size of it."""

from __future__ import annotations

import ctypes
import re
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
    }
    assert {struct: ctypes.sizeof(struct) for struct in sizes} == sizes
