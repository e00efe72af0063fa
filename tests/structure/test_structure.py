"""scripts/check-structure on small trees made for it: each rule finds what breaks it, and nothing else.

Run by `python3 -m unittest discover -s tests/structure`; it needs nothing that is not Python's own.
"""

import importlib.util
import subprocess
import sys
import tempfile
import unittest
from importlib.machinery import SourceFileLoader
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "check-structure"
sys.dont_write_bytecode = True
loader = SourceFileLoader("check_structure", str(SCRIPT))
check_structure = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_structure", loader))
loader.exec_module(check_structure)

LIB = "#![deny(unsafe_code)]\npub mod backend;\npub mod ffi;\n"
# In pieces, so that this file is not taken for one that sleeps.
SLEEP = "sleep" + "("
PAGE = """# Contributing

| files that import each other | why |
|---|---|
{circles}

| module with unsafe code | why |
|---|---|
{unsafe}
"""


def complaints(files, circles="", unsafe="", page=None):
    """What the check says of a tree of these files, to which it adds `src/lib.rs` and CONTRIBUTING.md."""
    with tempfile.TemporaryDirectory(prefix="cachetory-structure-") as folder:
        root = Path(folder)
        whole = {"src/lib.rs": LIB, "CONTRIBUTING.md": page or PAGE.format(circles=circles, unsafe=unsafe), **files}
        for name, text in whole.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)
        return [each.replace(f"{root}/", "") for each in check_structure.complaints_of(root)]


class Case(unittest.TestCase):
    def refused(self, files, *parts, **tables):
        """There is one complaint, and it has all the parts."""
        found = complaints(files, **tables)
        self.assertEqual(len(found), 1, found)
        for part in parts:
            self.assertIn(part, found[0])

    def accepted(self, files, **tables):
        self.assertEqual(complaints(files, **tables), [])


def ring(*names):
    """Files of src/completion, each of which imports the next."""
    following = names[1:] + names[:1]
    return {f"src/completion/{name}.rs": f"use super::{to}::It;\n" for name, to in zip(names, following)}


class Circles(Case):
    row = "| `completion/call`, `completion/queue`, `completion/inflight` | one lock |"

    def test_a_circle_that_is_not_listed_is_refused(self):
        self.refused(ring("call", "queue"), "no row", "completion/call, completion/queue")

    def test_a_circle_that_is_listed_is_accepted(self):
        self.accepted(ring("call", "queue", "inflight"), circles=self.row)

    def test_a_part_of_a_listed_circle_is_accepted(self):
        self.accepted(ring("call", "queue"), circles=self.row)

    def test_a_listed_circle_that_grew_is_refused(self):
        row = self.row.replace("`completion/queue`", "`completion/queue`, `completion/index`")
        files = ring("call", "queue", "inflight", "index")
        self.refused(files, "4 files import each other, more than 3", circles=row)

    def test_a_row_without_a_circle_is_refused(self):
        self.refused({}, "do not import each other any more", circles=self.row)

    def test_a_chain_is_no_circle(self):
        self.accepted(
            {
                "src/op.rs": "use crate::value::Value;",
                "src/value.rs": "use crate::error::Error;",
                "src/error.rs": "",
            }
        )

    def test_parent_and_child_are_no_circle(self):
        self.accepted(
            {"src/completion/mod.rs": "mod call;\nuse call::Call;", "src/completion/call.rs": "use super::Queue;"}
        )

    def test_a_path_in_code_is_an_import(self):
        files = {"src/op.rs": "fn a() { crate::value::make() }", "src/value.rs": "fn b() { super::op::make() }"}
        self.refused(files, "op, value")

    def test_a_nested_use_is_taken_apart(self):
        files = {
            "src/op.rs": "use crate::{error::{Error, Kind as K}, value::{self}};",
            "src/error.rs": "",
            "src/value.rs": "use crate::op;",
        }
        self.refused(files, "op, value")

    def test_what_only_tests_import_does_not_count(self):
        self.accepted(
            {
                "src/op.rs": (
                    "#[cfg(test)]\nmod tests {\n    use crate::value::Value;\n}\n"
                    "#[cfg(all(test, not(loom)))]\nmod fixture;\n"
                ),
                "src/op/fixture.rs": "use crate::value::Value;",
                "src/value.rs": "use crate::op::Op;",
                "src/value/tests/mod.rs": "use crate::op::Op;",
            }
        )

    def test_what_follows_a_test_item_counts(self):
        files = {
            "src/op.rs": "#[cfg(test)]\nmod tests;\nuse crate::value::Value;",
            "src/value.rs": "use crate::op::Op;",
        }
        self.refused(files, "op, value")

    def test_comments_and_strings_are_no_imports(self):
        self.accepted(
            {
                "src/op.rs": '// use crate::value::A;\n/* crate::value::B */\nconst A: &str = "crate::value::C \\" ";\n'
                "const B: &str = r#\"use crate::value::D;\"#;\nfn c<'a>(c: &'a [u8]) -> bool { c[0] == b'\"' }\n",
                "src/value.rs": "use crate::op::Op;",
            }
        )

    def test_who_may_see_an_item_is_no_import(self):
        self.accepted({"src/op.rs": "pub(in crate::value) fn a() {}", "src/value.rs": "use crate::op::Op;"})


ROOMS = [
    "ffi/cache",
    "cache",
    "backend/mod",
    "backend/redis/mod",
    "backend/redis/topology/mod",
    "backend/redis/node/mod",
    "backend/redis/link/mod",
    "backend/redis/wire/encode",
]


def importing(place, other):
    """The file at `place` imports from the file `other`; both are there."""
    path = other.removesuffix("/mod").replace("/", "::")
    return {f"src/{other}.rs": "", f"src/{place}.rs": f"use crate::{path}::It;\n"}


class Rooms(Case):
    def test_every_import_down_is_accepted(self):
        for level, place in enumerate(ROOMS):
            for other in ROOMS[level + 1 :]:
                with self.subTest(place=place, other=other):
                    self.accepted(importing(place, other))

    def test_every_import_up_is_refused(self):
        for level, place in enumerate(ROOMS):
            for other in ROOMS[:level]:
                if (place, other) == ("backend/redis/mod", "backend/mod"):
                    continue
                with self.subTest(place=place, other=other):
                    self.refused(importing(place, other), f"src/{place}.rs:1: ", "an import runs up")

    def test_a_backend_may_import_the_trait(self):
        for place in ["backend/redis/mod", "backend/redis/clear", "backend/memory/mod", "backend/dummy"]:
            with self.subTest(place=place):
                self.accepted(importing(place, "backend/mod"))

    def test_a_room_of_redis_may_not_import_the_trait(self):
        self.refused(
            importing("backend/redis/node/pool", "backend/mod"), "runs up, from backend/redis/node to backend"
        )

    def test_a_file_directly_in_redis_is_above_the_rooms(self):
        self.accepted(importing("backend/redis/clear", "backend/redis/node/mod"))
        self.refused(importing("backend/redis/node/mod", "backend/redis/clear"), "an import runs up")

    def test_what_is_declared_in_redis_itself_is_above_its_rooms(self):
        files = {
            "src/backend/redis/mod.rs": "pub const SHARED: usize = 1;",
            "src/backend/redis/link/batch.rs": "use super::super::SHARED;",
        }
        self.refused(files, "from backend/redis/link to backend/redis")

    def test_within_a_room_either_way_is_accepted(self):
        self.accepted(importing("backend/redis/link/mod", "backend/redis/link/batch"))
        self.accepted(importing("backend/redis/link/batch", "backend/redis/link/mod"))

    def test_wire_and_net_know_nothing_of_each_other(self):
        self.refused(
            importing("backend/redis/wire/encode", "backend/redis/net/stream"), "know nothing of each other"
        )
        found = complaints(importing("backend/redis/net/stream", "backend/redis/wire/encode"))
        self.assertTrue(any("know nothing of each other" in each for each in found), found)

    def test_one_backend_knows_nothing_of_another(self):
        self.refused(importing("backend/memory/mod", "backend/redis/mod"), "know nothing of each other")
        self.refused(importing("backend/redis/clear", "backend/dummy"), "know nothing of each other")

    def test_the_reactor_imports_no_backend_and_no_completion(self):
        for place in ["reactor", "reactor/mod", "reactor/poll"]:
            for other in ["backend/mod", "backend/redis/link/mod", "completion/mod", "ffi/cache"]:
                with self.subTest(place=place, other=other):
                    self.refused(importing(place, other), "reactor may not import")

    def test_completion_imports_nothing_from_above(self):
        for other in ["backend/mod", "backend/memory/mod", "cache", "ffi/cache"]:
            with self.subTest(other=other):
                self.refused(importing("completion/queue", other), "completion may not import")
        self.accepted(importing("completion/queue", "reactor"))

    def test_what_all_stand_on_imports_no_room(self):
        for place in ["op", "error", "config/mod", "threads"]:
            for other in ["backend/mod", "cache", "ffi/cache", "completion/mod"]:
                with self.subTest(place=place, other=other):
                    self.refused(importing(place, other), "what all rooms stand on may not import")

    def test_the_crate_s_root_may_name_all(self):
        self.accepted(
            {
                "src/lib.rs": LIB + "pub use ffi::cache;\npub use crate::backend::redis;\n",
                "src/ffi/cache.rs": "",
                "src/backend/redis/mod.rs": "",
            }
        )

    def test_an_inner_module_s_super_is_its_file(self):
        self.accepted(
            {
                "src/backend/redis/link/mod.rs": "struct It;\nmod inner {\n    use super::It;\n}\n",
                "src/backend/redis/mod.rs": "",
            }
        )


class Mentions(Case):
    def test_c_s_names_stay_in_ffi(self):
        self.refused(
            {"src/cache.rs": 'fn a() { complain("at least 1, or CACHETORY_NO_EXPIRY") }'},
            "only ffi knows CACHETORY_",
        )
        self.refused(
            {"src/error.rs": "\nconst CACHETORY_OK: i32 = 0;"}, "src/error.rs:2: only ffi knows CACHETORY_"
        )
        self.accepted({"src/ffi/types.rs": "const CACHETORY_OK: i32 = 0;", "src/op.rs": "// CACHETORY_OK\n"})

    def test_c_s_types_stay_in_ffi(self):
        self.refused({"src/cache.rs": "use std::ffi::{CStr, c_char};"}, "only ffi knows C's types")
        self.refused({"src/fork.rs": "fn a(b: *mut std::ffi::c_void) {}"}, "only ffi knows C's types")
        self.accepted({"src/ffi/arg.rs": "use std::ffi::c_char;", "src/sys/mod.rs": "fn a(b: libc::c_int) {}"})

    def test_wire_knows_no_socket_no_thread_and_no_clock(self):
        for text in [
            "use std::net::TcpStream;",
            "use std::{net::TcpStream, fmt};",
            "use rustix::io;",
            "fn a() { rustix::io::a() }",
            "use std::thread;",
            "fn a() { std::thread::yield_now() }",
            "use std::time::Instant;",
            "use std::time::{Duration, Instant};",
            "use std::sync::Mutex;",
            "use std::sync::{Arc, Mutex};",
            "fn a(b: &std::sync::Mutex<u8>) {}",
        ]:
            with self.subTest(text=text):
                found = complaints({"src/backend/redis/wire/encode.rs": text})
                self.assertTrue(found and all("wire does no I/O" in each for each in found), found)

    def test_wire_may_have_durations_and_tests_may_have_threads(self):
        self.accepted(
            {
                "src/backend/redis/wire/mod.rs": "use std::time::Duration;\n"
                "#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n"
                "struct Networked;\nfn instant_answer() {}\n"
            }
        )

    def test_net_knows_nothing_of_resp(self):
        encode = {"src/backend/redis/wire/encode.rs": ""}
        self.refused(
            {**encode, "src/backend/redis/net/stream.rs": "fn a() { encode::outbox() }"},
            "net knows nothing of RESP",
        )
        self.refused({**encode, "src/backend/redis/net/tls.rs": "use redis::wire;"}, "net knows nothing of RESP")
        self.accepted({**encode, "src/backend/redis/net/tls.rs": "// as wire has it\nfn encode() {}\n"})


class Unsafe(Case):
    def test_unsafe_code_in_a_file_that_is_not_listed_is_refused(self):
        self.refused({"src/fork.rs": "\nunsafe fn a() {}"}, "src/fork.rs:2: unsafe code")

    def test_a_test_s_unsafe_code_counts(self):
        self.refused(
            {"src/fork.rs": "#[cfg(test)]\nmod tests {\n    unsafe fn a() {}\n}\n"}, "src/fork.rs:3: unsafe code"
        )

    def test_listed_files_and_folders_may_have_it(self):
        files = {"src/fork.rs": "unsafe fn a() {}", "src/ffi/arg.rs": "fn a() { unsafe { b() } }"}
        self.accepted(files, unsafe="| `fork.rs` | libc |\n| `src/ffi/` | a caller's pointers |")

    def test_a_file_beside_a_listed_one_may_not(self):
        files = {"src/fork.rs": "unsafe fn a() {}", "src/fork_more.rs": "unsafe fn a() {}"}
        self.refused(files, "src/fork_more.rs:1", unsafe="| `src/fork.rs` | libc |")

    def test_a_row_without_unsafe_code_is_refused(self):
        self.refused(
            {"src/fork.rs": "// unsafe"}, "fork.rs has no unsafe code any more", unsafe="| `src/fork.rs` | libc |"
        )

    def test_comments_strings_and_longer_words_are_no_unsafe_code(self):
        self.accepted({"src/fork.rs": '// unsafe\nconst A: &str = "unsafe";\n#![allow(unsafe_code)]\n'})

    def test_the_crate_denies_it(self):
        self.refused({"src/lib.rs": "// #![deny(unsafe_code)]\n"}, "#![deny(unsafe_code)] is missing")
        self.accepted({"src/lib.rs": "#![deny(missing_docs, unsafe_code)]\n"})

    def test_the_table_must_be_there(self):
        self.refused({}, "there is no table", page="# Contributing\n")


class Lengths(Case):
    def test_500_lines_are_accepted_and_501_are_not(self):
        for folder in ["src", "tests/conformance", "benches", "scripts", "examples-c", "examples-go"]:
            name = f"{folder}/long.rs"
            with self.subTest(folder=folder):
                self.accepted({name: "//\n" * 500})
                self.refused({name: "//\n" * 501}, f"{name}: 501 lines")

    def test_120_columns_are_accepted_and_121_are_not(self):
        for name in [
            "src/op.rs",
            "tests/c/a.c",
            "include/cachetory.h",
            "README.md",
            "docs/page.md",
            "scripts/do",
            "benches/a.py",
            "examples-swift/main.swift",
        ]:
            with self.subTest(name=name):
                self.accepted({name: "é" * 120 + "\n"})
                self.refused({name: "\n" + "é" * 121 + "\n"}, f"{name}:2: 121 columns")

    def test_a_tab_is_four_columns(self):
        self.refused({"examples-go/main.go": "\t" + "a" * 117}, "121 columns")

    def test_contributing_is_bounded_too(self):
        self.refused(
            {}, "CONTRIBUTING.md:1: 121 columns", page="a" * 121 + "\n" + PAGE.format(circles="", unsafe="")
        )

    def test_a_row_of_a_table_and_a_url_may_be_longer(self):
        self.accepted(
            {"README.md": "| " + "a " * 100 + "|\n", "src/op.rs": "// https://example.org/" + "a" * 120 + "\n"}
        )

    def test_a_row_is_one_in_markdown_alone(self):
        self.refused({"src/op.rs": "    | " + "a" * 120 + "\n"}, "columns")

    def test_generated_files_may_be_longer(self):
        self.accepted(
            {
                "tests/loom/Cargo.lock": "a\n" * 501,
                "include/cachetory.h": "//\n" * 700,
                "docs/benchmark/a.svg": "a" * 300,
            }
        )

    def test_programs_and_build_folders_are_passed_over(self):
        self.accepted({"examples-c/quickstart": b"\xff\xfe" * 300, "tests/loom/target/a.rs": "//\n" * 501})


class Sleeps(Case):
    def test_a_test_may_not_sleep(self):
        for name, text in [
            ("faults/late.rs", f"thread::{SLEEP}A_WHILE);"),
            ("c/a.c", f"nano{SLEEP}&span, NULL);"),
            ("c/b.c", f"u{SLEEP}5);"),
            ("interop/test_a.py", f"time.{SLEEP}1)"),
            ("examples/test_a.py", f"await asyncio.{SLEEP}1)"),
        ]:
            with self.subTest(name=name):
                self.refused({f"tests/{name}": "\n" + text}, f"tests/{name}:2: a fixed sleep")

    def test_support_code_may(self):
        self.accepted({"tests/support/mod.rs": f"thread::{SLEEP}A);", "tests/python/polling.py": f"time.{SLEEP}1)"})

    def test_a_comment_does_not_sleep(self):
        self.accepted({"tests/a.rs": f"// thread::{SLEEP}A)\n", "tests/c/a.c": f"/* {SLEEP}1) */\n"})


class Command(unittest.TestCase):
    def test_it_fails_with_a_complaint_a_line_and_succeeds_without_one(self):
        with tempfile.TemporaryDirectory(prefix="cachetory-structure-") as folder:
            root = Path(folder)
            (root / "src").mkdir()
            (root / "src" / "lib.rs").write_text(LIB)
            (root / "CONTRIBUTING.md").write_text(PAGE.format(circles="", unsafe=""))
            command = [sys.executable, str(SCRIPT), str(root)]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            (root / "src" / "op.rs").write_text("use crate::cache::Cache;\n")
            (root / "src" / "cache.rs").write_text("")
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(
                done.stderr.splitlines()[0],
                "src/op.rs:1: what all rooms stand on may not import cache: crate::cache::Cache",
            )
            self.assertIn("check-structure: 1 complaint\n", done.stderr)


if __name__ == "__main__":
    unittest.main()
