"""Makes a table, plots and the figures of docs/benchmark.md out of what was measured.

    report.py write RESULTS DOCS    condenses RESULTS into DOCS/benchmark/*.tsv, replacing what was measured anew, then
                                    does as `page`
    report.py page DOCS             the page and the plots from DOCS/benchmark/*.tsv, and the table on stdout
    report.py cells DRIVER          what the harness printed, from stdin: a line for each cell and driver, to this one
"""

import pathlib
import statistics
import sys
import textwrap

import svg
from flights import far_section, flights_section, many_loops_section, pollers_section
from tables import (
    ASYNCHRONOUS, CALM, EVENT, OURS, PEERS, Cell, cells_of, cells_table, counts_of, draw_lines, item, latency, number,
    present, ratio, ratio_to_raw, size, spread, table, time,
)

MEMORY = {
    "loaded": "library loaded",
    "first": "first client, after a call",
    "opened": "each further one, opened",
    "used": "each further one, after a call",
    "thousand": "in all, 1000 clients",
}
BEGIN, END = "<!-- figures: written by benches/report.py -->", "<!-- end of the figures -->"


def rows(path, *kinds):
    """The lines of these kinds, split."""
    if not path.exists():
        return []
    lines = (line.rstrip("\n").split("\t") for line in path.open(encoding="utf-8") if line.strip())
    return [line for line in lines if not kinds or line[0] in kinds]


def plain(name):
    return name.removesuffix("_tls")


def condense(lines):
    """Rounds and latencies to one row for a driver and a cell."""
    rates, latencies = {}, {}
    for kind, name, *rest in lines:
        key = tuple(rest[:6])
        if kind == "missing":
            continue
        if kind == "rate":
            rates.setdefault(key, {}).setdefault(plain(name), {})[rest[6]] = [float(text) for text in rest[7:10]]
        else:
            latencies[key, plain(name)] = rest[6:9]
    out = [line for line in lines if line[0] == "missing"]
    for key, cell in rates.items():
        for name, rounds in cell.items():
            if (key, name) not in latencies:
                continue
            row = ["rate", name, *key]
            row.append(f"{statistics.median(speed[0] for speed in rounds.values()):.0f}")
            for other in ("hiredis", "raw"):
                against = cell.get(other, {})
                ratios = [rounds[r][0] / against[r][0] for r in rounds if r in against and against[r][0]]
                row += [f"{f(ratios):.3f}" if ratios else "-" for f in (statistics.median, min, max)]
            row.append(f"{statistics.median(speed[1] for speed in rounds.values()):.3f}")
            used = max(speed[2] for speed in rounds.values())
            out.append([*row, *latencies[key, name], f"{used:.0f}" if used else "-"])
    return out


def counts_section(counts, folder):
    by = counts_of(counts)
    calls = list(dict.fromkeys(call for call, _ in by))
    # A batch that is packed beforehand costs the raw loop next to nothing, and would press the others together.
    on_socket = {
        (call.replace("GET 100 B, 64", "GET, 64"), driver): value[0]
        for (call, driver), value in by.items()
        if "memory" not in call and value[0] >= 10
    }
    (folder / "instructions.svg").write_text(
        svg.bars(
            "User-space instructions per call, over a Unix socket",
            "instructions (logarithmic; less is better)",
            list(dict.fromkeys(call for call, _ in on_socket)),
            present({driver for _, driver in on_socket}),
            on_socket,
            logarithmic=True,
        ),
        encoding="utf-8",
    )
    out = ["### Instructions and allocations per call", "", "![Instructions per call](benchmark/instructions.svg)", ""]
    calls = [call for call in calls if "in flight" not in call]
    names = present({driver for call, driver in by if call in calls})
    out += ["User-space instructions:", ""]
    out += table(["call", *names], [[c, *(number(by[c, n][0]) if (c, n) in by else "–" for n in names)] for c in calls])
    out += ["Allocations (`malloc` and its kin):", ""]
    out += table(["call", *names], [[c, *(f"{by[c, n][1]:g}" if (c, n) in by else "–" for n in names)] for c in calls])
    return out


def memory_section(memory):
    by = {(what, driver): float(value) for _, driver, what, value in memory}
    names = present({driver for _, driver in by})
    body = [[text, *(size(by[what, n]) if (what, n) in by else "–" for n in names)] for what, text in MEMORY.items()]
    if ("used", OURS) in by:
        link = size(by["used", OURS] - by["opened", OURS])
        body.append(["its link to the server alone", *(link if n == OURS else "–" for n in names)])
    return ["### Resident memory", "", *table(["", *names], body)]


def rates_section(cells, folder):
    names = present({name for cell in cells for name in cell.by})
    out = ["### Throughput", ""]
    out += ["Calls per second as a ratio to hiredis in the same round: the median of the rounds, and the least and the"]
    out += ["greatest. Where hiredis has nothing to compare, calls per second. "
            "The last column is this library's ratio to `raw`.", ""]
    out += ["![One thread](benchmark/one-thread.svg)", "", "![Threads](benchmark/threads.svg)", ""]
    out += ["![Sizes](benchmark/sizes.svg)", "", "![Batches](benchmark/batches.svg)", ""]
    out += cells_table(cells, names, ratio, more=[("cachetory to raw", lambda c: ratio_to_raw(c.by.get(OURS)))])
    out += ["### Latency and processor time", ""]
    out += ["p50 / p99 / p99.9 of a call, and the client's processor time per call (user and system).", ""]
    out += ["![Latency](benchmark/latency.svg)", "", "![Processor time](benchmark/processor.svg)", ""]
    out += cells_table([c for c in cells if "hiredis" in c.by], names, latency)
    plots(cells, folder, [n for n in names if n != CALM])
    return out


def busy_section(cells):
    """The points at which spinning for a reply could do harm, and any at which this library is behind hiredis."""
    out = ["### Busy processors, and no spinning", "", "Calls per second as a ratio to hiredis, and p99 beside it.", ""]
    cells = [c for c in cells if "hiredis" in c.by]
    show = lambda f: f"{ratio(f)}; {time(f['p99'])}"
    out += cells_table([c for c in cells if c.place == "busy"], [OURS, CALM, "hiredis"], show)
    behind = []
    for cell in cells:
        for name in (OURS, CALM):
            mine, theirs = cell.by.get(name), cell.by["hiredis"]
            if mine and mine["h_high"] < 0.95:
                behind += item(
                    f"{cell.what()}, {cell.where()}: {name} {ratio(mine)}; p99 {time(mine['p99'])}, "
                    f"hiredis {time(theirs['p99'])}"
                )
    out += ["Under 0.95 × hiredis in every round, anywhere in what was measured:", ""] if behind else []
    nowhere = ["Nowhere in what was measured was this library under 0.95 × hiredis in every round."]
    return out + (behind or nowhere) + [""]


def plots(cells, folder, names):
    alone = [c for c in cells if (c.transport, c.place, c.threads) == ("tcp", "apart", "1") and "hiredis" in c.by]
    wanted = ["GET 100 B", "SET 100 B", "GET 64 KiB", "MGET 100 × 100 B", "MSET 100 × 100 B", "MGET 1000 × 100 B"]
    by_what = {c.what(): c for c in alone}
    groups = [what for what in wanted if what in by_what]
    if groups:
        values = {(w, n): by_what[w].by[n]["h"] for w in groups for n in names if n in by_what[w].by}
        title = "One thread, a processor each, TCP"
        chart = svg.bars(title, "calls per second, ratio to hiredis", groups, names, values, line=1)
        (folder / "one-thread.svg").write_text(chart, encoding="utf-8")
    ratio_to = "calls per second, ratio to hiredis"
    sizes = [c for c in alone if c.op == "get"]
    draw_lines(folder / "sizes.svg", sizes, names, "size", "h", "GET over TCP, one thread, a processor each",
               ratio_to, "bytes of the value")
    batches = [c for c in alone if c.op == "mget" and c.size == "100"]
    draw_lines(folder / "batches.svg", batches, names, "count", "h",
               "MGET of 100 B over TCP, one thread, a processor each", ratio_to, "keys")
    gets = [c for c in cells if (c.transport, c.op, c.size, c.place) == ("tcp", "get", "100", "free")]
    for file, field, title, unit, logarithmic in (
        ("threads", "rate", "GET 100 B over TCP", "calls per second", False),
        ("latency", "p99", "GET 100 B over TCP: the slowest call of a hundred", "microseconds (p99, logarithmic)",
         True),
        ("processor", "cpu", "GET 100 B over TCP: the client's processor time", "microseconds per call", False),
    ):
        draw_lines(folder / f"{file}.svg", gets, names, "threads", field, title, unit, "threads", logarithmic)


def ahead_in(cell, name, peers):
    mine = cell.by.get(name)
    if mine is None or not peers:
        return []
    called = "this library" if name == OURS else name
    better = {n: f for n, f in peers.items() if f["rate"] > 1.05 * mine["rate"]}
    said = []
    if better and (mine["h_high"] is None or mine["h_high"] < max(f["h"] for f in better.values())):
        ratios = ", ".join(f"{n} {f['rate'] / mine['rate']:.2f} ×" for n, f in better.items())
        said.append(f"{ratios} {called}'s calls per second")
    for field, what, show in (("cpu", "processor time", lambda t: f"{t:.3g} µs"), ("p99", "p99", time)):
        best = min(peers, key=lambda n: peers[n][field])
        if peers[best][field] * 1.1 < mine[field]:
            said.append(f"{what} {show(peers[best][field])} with {best}, {show(mine[field])} with {called}")
    return said


def ahead_section(counts, memory, cells):
    """Wherever a peer does better than this library, by more than the spread where there is one."""
    out = []
    by = {(call, driver): (float(i), float(a)) for _, driver, call, i, a in counts}
    for (call, driver), value in by.items():
        for which, name in ((0, "instructions"), (1, "allocations")):
            mine = by.get((call, CALM), value)[which]
            if driver in PEERS and value[which] < mine:
                out += item(f"{call}: {driver} has {number(value[which])} {name}, this library {number(mine)}.")
    held = {(what, driver): float(value) for _, driver, what, value in memory}
    for (what, driver), value in held.items():
        mine = held.get((what, OURS), value)
        if driver in PEERS and value < 0.95 * mine:
            out += item(f"Memory, {MEMORY[what]}: {driver} {size(value)}, this library {size(mine)}.")
    for cell in cells:
        # A thread that waits is held against everybody, an event loop against event loops.
        for name, peers in ((OURS, PEERS), (EVENT, ASYNCHRONOUS)):
            said = ahead_in(cell, name, {n: f for n, f in cell.by.items() if n in peers})
            if said:
                out += item(f"{cell.what()}, {cell.where()}: {'; '.join(said)}.")
    return ["### Where a peer is ahead", "", *(out or ["Nowhere in what was measured."]), ""]


def missing_section(missing):
    if not missing:
        return []
    by = {}
    for _, name, *rest in missing:
        cell = Cell(rest[:6]) if len(rest) > 6 else None
        where = [f"{cell.what()} ({cell.where()})"] if cell else []
        by.setdefault((name, rest[-1]), dict()).update(dict.fromkeys(where))
    lines = [item(f"{name}: {why}{': ' if cells else ''}{', '.join(cells)}") for (name, why), cells in by.items()]
    return ["### What could not be measured", "", *(line for each in lines for line in each), ""]


def figures(folder):
    notes = rows(folder / "notes.tsv", "note")
    counts, memory = rows(folder / "counts.tsv", "count"), rows(folder / "memory.tsv", "memory")
    cells = cells_of(rows(folder / "rates.tsv", "rate"))
    parts = ("notes", "counts", "memory", "rates")
    missing = [row for part in parts for row in rows(folder / f"{part}.tsv", "missing")]
    during = {r[1]: r[2] for r in rows(folder / "others.tsv")}
    others = int(during.get("others", 0))
    out = ["### What was measured", "", *(line for _, name, value in notes for line in item(f"{name}: {value}")), ""]
    if not cells:
        out += ["Throughput and latency are not in yet: they need a machine with nothing else to do.", ""]
    else:
        busy = "**Measured on a busy machine**, for orientation only: while" if others > 5 else "While"
        text = f"{busy} throughput and latency were measured, other programs had {others} % of the processors."
        if "turns" in during:
            text += f" In each cell everybody had {during['turns']}."
        out += [*textwrap.wrap(text, 120), ""]
    out += missing_section(missing)
    if counts:
        out += counts_section(counts, folder)
    if memory:
        out += memory_section(memory)
    far = [c for c in cells if c.transport == "far"]
    flights = [c for c in cells if c.op == "pipeline" and c not in far]
    one_thread = [c for c in flights if c.threads == "1" and (c.place != "free" or c.transport == "memory")]
    synchronous = [c for c in cells if c.op != "pipeline"]
    if synchronous:
        out += rates_section([c for c in synchronous if c not in far], folder)
        out += busy_section(synchronous)
    if flights or counts:
        out += flights_section(one_thread, counts, folder)
    out += many_loops_section(flights, folder)
    out += pollers_section(rows(folder / "pollers.tsv", "pollers"))
    out += far_section(far, folder)
    return out + ahead_section(counts, memory, cells)


def write(results, docs):
    folder = docs / "benchmark"
    folder.mkdir(exist_ok=True)
    for name in ("notes", "counts", "memory", "pollers", "others"):
        if (results / name).exists():
            (folder / f"{name}.tsv").write_text((results / name).read_text(encoding="utf-8"), encoding="utf-8")
    if (results / "rates").exists():
        lines = condense(rows(results / "rates"))
        (folder / "rates.tsv").write_text("".join("\t".join(row) + "\n" for row in lines), encoding="utf-8")


def page(docs):
    made = figures(docs / "benchmark")
    path = docs / "benchmark.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n" + "\n".join(made) + f"\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print("\n".join(line for line in made if not line.startswith("![")))


def print_cells(lines, base):
    print(f"{'cell':34} {'driver':27} {'ratio':>18} {'calls/s':>10} {'p50':>8} {'p99':>8} {'cpu':>7} connections")
    speeds, latencies = {}, {}
    for kind, name, *rest in lines:
        key = " ".join(rest[:6])
        if kind == "rate":
            speeds.setdefault(key, {}).setdefault(name, {})[rest[6]] = [float(text) for text in rest[7:]]
        elif kind == "latency":
            latencies[key, name] = [float(text) / 1000 for text in rest[6:8]]
    for key, cell in speeds.items():
        for name, rounds in cell.items():
            against = cell.get(base, {})
            ratios = [speed[0] / against[n][0] for n, speed in rounds.items() if n in against]
            shown = spread(statistics.median(ratios), min(ratios), max(ratios)) if ratios else "-"
            rate, cpu, used = (statistics.median(column) for column in zip(*rounds.values()))
            p50, p99 = latencies.get((key, name), (0, 0))
            print(f"{key:34} {name:27} {shown:>18} {rate:10.0f} {p50:8.1f} {p99:8.1f} {cpu:7.3f} {used:.0f}")


if __name__ == "__main__":
    if sys.argv[1] == "cells":
        print_cells([line.rstrip("\n").split("\t") for line in sys.stdin], sys.argv[2])
        sys.exit()
    if sys.argv[1] == "write":
        write(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    page(pathlib.Path(sys.argv[-1]))
