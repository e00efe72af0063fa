"""The examples build against the installed library, the ways its users build, and link what they should."""

from __future__ import annotations

import shutil

import pytest

from programs import EXAMPLES_GO, ROOT, SERVERS, STEPS_IN_C, needs_the_library, run, said_by, succeeds

MODULE = """@import Cachetory;
int main(void)
{
    cachetory_t cache = {0};
    cachetory_error_t error;
    if (cachetory_ping(cache, &error) != CACHETORY_ERR_CLOSED || CACHETORY_NO_EXPIRY <= 0)
        return 1;
    return cachetory_close(cache);
}
"""


@pytest.mark.parametrize("step", STEPS_IN_C)
def test_it_builds_without_a_warning(installed, step):
    done = installed.step(step)
    assert done.returncode == 0, said_by(done)
    assert "warning:" not in said_by(done)


@pytest.mark.parametrize("way", ["pkg-config", "CMake"])
def test_the_shared_library_is_linked(installed, way):
    assert needs_the_library(installed.program(way, "quickstart"))


@pytest.mark.parametrize("way", ["static", "CMake, static"])
def test_the_static_library_is_linked(installed, way):
    assert not needs_the_library(installed.program(way, "quickstart"))


@pytest.mark.parametrize("example", [*SERVERS, "coroutines"])
def test_what_may_be_left_out_is_built_by_cmake(installed, example):
    assert needs_the_library(installed.program("CMake", example))


@pytest.mark.parametrize("example", [*SERVERS, "coroutines"])
def test_what_may_be_left_out_is_linked_statically(installed, example):
    assert not needs_the_library(installed.program("static", example))


def test_go_is_formatted():
    assert succeeds(["gofmt", "-l", EXAMPLES_GO]).stdout == b""


def test_go_builds(installed):
    installed.program("go")


def test_go_vet_finds_nothing(installed):
    done = run(["go", "vet", "."], cwd=EXAMPLES_GO, **installed.pkg_config, **installed.go)
    assert done.returncode == 0, said_by(done)


@pytest.mark.skipif(
    shutil.which("swiftc") is None, reason="there is no swiftc; the module map is tested with clang"
)
def test_swift_builds(installed):
    installed.program("swift")


def test_the_module_map_gives_what_swift_imports(installed, tmp_path):
    """Through the module alone: what Swift imports is what clang's module holds."""
    source, compiled, program = (tmp_path / name for name in ("module.m", "module.o", "module"))
    source.write_text(MODULE)
    # The map's `link` line has the compiler name the library, so none is named in the first step.
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    module = ["-fmodules", f"-fmodules-cache-path={tmp_path / 'modules'}", "-I", ROOT / "include"]
    succeeds(["clang", *module, "-c", source, "-o", compiled, *strict])
    libdir = installed.libdir
    succeeds(["clang", compiled, "-o", program, "-L", libdir, f"-Wl,-rpath,{libdir}", "-lcachetory"])
    succeeds([program])
