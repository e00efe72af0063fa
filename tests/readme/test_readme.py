"""What README.md shows and states, against the library that is installed in CACHETORY_PREFIX.

A fence's info string says what is in it. "file=NAME": a file of the reader's. "run": commands that a reader types, one
after the other in one shell; an "output" fence after them is what they print. "make": targets of the Makefile, which
must be there.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREFIX = Path(os.environ["CACHETORY_PREFIX"])
LIBRARY = PREFIX / "lib" / "libcachetory.so"
README = (ROOT / "README.md").read_text()
HEADER = (PREFIX / "include" / "cachetory.h").read_text()
FENCES = re.findall(r"^```\w+ ([^\n]+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
MARKER = "a line that no command of the README prints"
# Nothing takes that long; it keeps what hangs from hanging for ever.
LONGEST = 600


def runs() -> list[tuple[str, str]]:
    """The commands and their output, in their order."""
    found: list[tuple[str, str]] = []
    for kind, text in FENCES:
        if kind == "run":
            found.append((text, ""))
        elif kind == "output":
            found[-1] = (found[-1][0], text)
    return found


RUNS = runs()


def printed_by(*command) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> list[str]:
    """What each of the commands prints, up to the first that fails. One may use what another has set."""
    home = tmp_path_factory.mktemp("home")
    # Where the README installs to.
    (home / "cachetory").symlink_to(PREFIX)
    work = home / "work"
    work.mkdir()
    for kind, text in FENCES:
        if kind.startswith("file="):
            (work / kind.removeprefix("file=")).write_text(text)
    script = ["exec 2>&1", *(f"{commands}\necho '{MARKER}'" for commands, _ in RUNS)]
    done = subprocess.run(
        ["sh", "-e"],
        input="\n".join(script),
        stdout=subprocess.PIPE,
        text=True,
        timeout=LONGEST,
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"},
    )
    *outputs, rest = done.stdout.split(MARKER + "\n")
    return (
        outputs
        if len(outputs) == len(RUNS)
        else [*outputs, f"{rest}(it ended with exit code {done.returncode})"]
    )


@pytest.mark.parametrize("index", range(len(RUNS)), ids=[commands.splitlines()[0] for commands, _ in RUNS])
def test_commands_print_what_is_shown(printed, index):
    commands, output = RUNS[index]
    assert index < len(printed), f"a command before it failed:\n{commands}"
    assert printed[index] == output, commands


TARGETS = [target for kind, text in FENCES if kind == "make" for target in text.splitlines()]


@pytest.mark.parametrize("command", TARGETS)
def test_targets_of_make_are_there(command):
    dry = f"{command.replace('make', 'make -n', 1)} >/dev/null"
    done = subprocess.run(["sh", "-c", dry], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_the_table_of_statuses_is_the_header_s():
    defined = re.findall(r"^#define (CACHETORY_(?:OK|NOT_\w+|ERR_\w+)) (-?\d+)$", HEADER, re.MULTILINE)
    listed = re.findall(r"^\| `(CACHETORY_\w+)` \| (-?\d+) \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(defined)


NAMED = set(re.findall(r"\bcachetory_[a-z]\w*|\bCACHETORY_\w+", README, re.ASCII))


def test_names_are_in_the_header():
    assert NAMED - set(re.findall(r"\bcachetory_\w+|\bCACHETORY_\w+", HEADER, re.ASCII)) == set()


def test_every_function_is_named():
    assert set(re.findall(r"\b(cachetory_\w+)\(", HEADER, re.ASCII)) - NAMED == set()


def test_the_tables_of_options_are_the_source_s():
    source = (ROOT / "src" / "config" / "options.rs").read_text()
    known = re.findall(r'^    "(\w+)",$', source, re.MULTILINE)
    tables = README.partition("\n## URLs\n")[2].partition("\n## ")[0].partition("| option |")[2]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", tables, re.MULTILINE)
    assert sorted(re.findall(r"\w+", " ".join(rows))) == sorted(known)


LINKS = [
    (page, target) for page in PAGES for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
]


@pytest.mark.parametrize("page, target", [link for link in LINKS if "://" not in link[1]])
def test_links_point_to_what_is_there(page, target):
    assert (ROOT / target).exists()


def test_the_stated_size_holds_and_is_not_out_of_date():
    stated = float(re.search(r"less than ([\d.]+) MB", README)[1])
    assert stated - 0.3 < LIBRARY.stat().st_size / 1e6 < stated


def test_the_library_needs_no_more_than_is_stated():
    stated = set(re.findall(r"`([\w.-]+)`", re.search(r"^\| needs \|(.*)$", README, re.MULTILINE)[1]))
    assert (
        set(re.findall(r"\(NEEDED\).*\[(.*)\]", printed_by("readelf", "--dynamic", LIBRARY))) - stated == set()
    )


def test_the_stated_glibc_is_enough():
    symbols = printed_by("objdump", "-T", LIBRARY)
    versions = {tuple(map(int, each.split("."))) for each in re.findall(r"GLIBC_([\d.]+)", symbols)}
    stated = re.search(r"^\| glibc \| ([\d.]+) or later", README, re.MULTILINE)[1]
    assert max(versions) <= tuple(map(int, stated.split(".")))
