"""Instructions and allocations per call, counted by callgrind and by a preloaded library.

    counts.py check FILE [--write]     this library's, against those in FILE
    counts.py all DRIVER...            everybody's, as lines for the results

The instructions of a call are the difference between a run of many calls and one of few, so that start and end do not
count.
Of several runs the least is taken: a reply that is late, on a busy machine, costs a few instructions more.
"""

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

BENCH = "build/bench"
TOLERANCE = 0.03
# How long the batches are depends on how fast the server is.
TOLERANCES = {"GET 100 B, 64 in flight": 0.1}
# A spin for the reply takes as many instructions as the reply takes time.
OURS = "cachetory?spin_us=0"

# (name, cell, few calls, many calls)
WORKLOADS = [
    ("GET 100 B", "unix get 100 1 1 free", 100, 2100),
    ("GET miss", "unix miss 100 1 1 free", 100, 2100),
    ("SET 100 B", "unix set 100 1 1 free", 100, 2100),
    ("SET 100 B with a ttl", "unix ttl 100 1 1 free", 100, 2100),
    ("MGET 100 x 100 B", "unix mget 100 100 1 free", 20, 120),
    ("MSET 100 x 100 B", "unix mset 100 100 1 free", 20, 120),
    ("GET 100 B, 64 in flight", "unix pipeline 100 64 1 free", 1280, 7680),
    ("memory:// GET 100 B", "memory get 100 1 1 free", 100, 2100),
    ("memory:// SET 100 B", "memory set 100 1 1 free", 100, 2100),
    ("memory:// GET 100 B, 64 in flight", "memory pipeline 100 64 1 free", 1280, 7680),
]
# Those that have a line in the file are checked; a new file has a line for each that the library has.
CHECKED = [
    "GET 100 B",
    "SET 100 B",
    "MGET 100 x 100 B",
    "MSET 100 x 100 B",
    "GET 100 B, 64 in flight",
    "memory:// GET 100 B",
    "memory:// GET 100 B, 64 in flight",
]
NO_SUCH_THING = 3
TRIES = 6
hung = set()


class NoSuchThing(Exception):
    """The library has no such operation, or nothing for this transport."""


def share_a_processor():
    """Client and server have one processor: there calls follow one another closely, also under valgrind. One that comes
    long after the last looks whether its link is still there, which takes more instructions."""
    processor = {min(os.sched_getaffinity(0))}
    for thread in os.listdir(f"/proc/{os.environ['BENCH_SERVER_PID']}/task"):
        os.sched_setaffinity(int(thread), processor)
    os.sched_setaffinity(0, processor)


def run(driver, cell, calls, *prefix, **environment):
    command = [*prefix, f"{BENCH}/harness", "count", str(calls), driver, cell]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)
    if done.returncode == NO_SUCH_THING:
        raise NoSuchThing
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "failed with" not in line]
        raise RuntimeError(said[-1] if said else f"{driver} failed")
    return float(done.stdout)


def instructions(driver, cell, calls, runs):
    return min(one_run(driver, cell, calls) for _ in range(runs))


def one_run(driver, cell, calls):
    with tempfile.NamedTemporaryFile() as out:
        run(driver, cell, calls, "valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out.name}")
        return int(re.search(rb"^(?:summary|totals): (\d+)", out.read(), re.M).group(1))


def count(driver, workload, runs=3):
    _, cell, few, many = workload
    allocations = run(driver, cell, many, LD_PRELOAD=f"{BENCH}/allocations.so")
    slope = (instructions(driver, cell, many, runs) - instructions(driver, cell, few, runs)) / (many - few)
    return slope, allocations


def read(path):
    rows = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                name, most_instructions, most_allocations = re.split(r"\s{2,}", line.strip())
                rows[name] = float(most_instructions), float(most_allocations)
    return rows


def grew(name, most, slope, allocations):
    # One allocation more in every fifth call is less than any call can have more. Calls in flight share some in
    # batches, which are not always as long.
    return slope > most[0] * (1 + TOLERANCES.get(name, TOLERANCE)) or allocations > most[1] + 0.2


def check(path, write):
    share_a_processor()
    limits = {} if write else read(path)
    lines, grown = [], 0
    for workload in WORKLOADS:
        name = workload[0]
        if name not in CHECKED or not (write or name in limits):
            continue
        try:
            slope, allocations = count(OURS, workload, 5 if write else 2)
        except RuntimeError as why:
            if not write:
                raise
            print(f"no line for {name}: {why}")
            continue
        # On a busy machine it takes a few tries until no call was late.
        for _ in range(0 if write else TRIES):
            if not grew(name, limits[name], slope, allocations):
                break
            again = count(OURS, workload, 3)
            slope, allocations = min(slope, again[0]), min(allocations, again[1])
        lines.append(f"{name:<36}{slope:>12.0f}{allocations:>8.2f}\n")
        if not write:
            most = limits[name]
            bad = grew(name, most, slope, allocations)
            grown += bad
            print(
                f"{'GREW: ' if bad else ''}{name}: {slope:.0f} instructions ({most[0]:.0f} on record), "
                f"{allocations:.2f} allocations ({most[1]:.2f})",
                flush=True,
            )
    if write:
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                "# User-space instructions and allocations of one call through C, over a Unix socket or in memory.\n"
                "# A check fails where one grows by more than 3 %, in flight on a server 10 %. Where that is meant:\n"
                "# scripts/check-counts LIBRARY --write.\n"
                "#\n# call                              instructions  allocations\n"
            )
            file.writelines(lines)
    return 1 if grown else 0


def line(driver, workload):
    try:
        if driver in hung:
            raise RuntimeError("it hung before")
        slope, allocations = count(driver, workload, 3 if driver == OURS else 2)
    except NoSuchThing:
        return ""
    except (RuntimeError, subprocess.TimeoutExpired) as why:
        if isinstance(why, subprocess.TimeoutExpired):
            hung.add(driver)
        print(f"NOT MEASURED: {driver}: counts of {workload[0]}: {why}", file=sys.stderr)
        return f"missing\t{driver}\tcounts of {workload[0]}: {str(why).rsplit(': ', 1)[-1]}\n"
    return f"count\t{driver}\t{workload[0]}\t{slope:.0f}\t{allocations:.2f}\n"


def count_all(drivers):
    """As many at once as there are processors: they do not disturb each other."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for text in pool.map(line, *zip(*((d, w) for d in drivers for w in WORKLOADS))):
            print(text, end="", flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "check":
        sys.exit(check(sys.argv[2], "--write" in sys.argv))
    sys.exit(count_all(sys.argv[2:]))
