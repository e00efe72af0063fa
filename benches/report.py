"""Makes a table, plots and the figures of docs/benchmark.md out of what was measured.

    report.py write RESULTS DOCS    condenses RESULTS into DOCS/benchmark/*.tsv, replacing what was measured anew, then as `page`
    report.py page DOCS             the page and the plots from DOCS/benchmark/*.tsv, and the table on stdout
"""

import pathlib
import statistics
import sys

import svg

OURS = "cachetory"
CALM = "cachetory?spin_us=0"
NAMES = ["raw", OURS, CALM, "hiredis", "libvalkey", "redis_crate", "glide"]
PEERS = ["hiredis", "libvalkey", "redis_crate", "glide"]
MEMORY = {
    "loaded": "library loaded",
    "first": "first client, after a call",
    "opened": "each further one, opened",
    "used": "each further one, after a call",
    "thousand": "in all, 1000 clients",
}
PLACES = {"one": "one processor", "apart": "a processor each", "free": "free", "busy": "busy machine"}
BEGIN, END = "<!-- figures: written by benches/report.py -->", "<!-- end of the figures -->"


def rows(path):
    if not path.exists():
        return []
    return [line.rstrip("\n").split("\t") for line in path.open(encoding="utf-8") if line.strip()]


def plain(name):
    return name.removesuffix("_tls")


def condense(lines):
    """Rounds and latencies to one row for a contestant and a cell."""
    rates, latencies = {}, {}
    for kind, name, *rest in lines:
        key = tuple(rest[:6])
        if kind == "rate":
            rates.setdefault(key, {}).setdefault(plain(name), {})[rest[6]] = float(rest[7]), float(rest[8])
        else:
            latencies[key, plain(name)] = rest[6:9]
    out = []
    for key, cell in rates.items():
        for name, rounds in cell.items():
            row = ["rate", name, *key]
            row.append(f"{statistics.median(rate for rate, _ in rounds.values()):.0f}")
            for other in ("hiredis", "raw"):
                against = cell.get(other, {})
                ratios = [rounds[r][0] / against[r][0] for r in rounds if r in against and against[r][0]]
                row += [f"{f(ratios):.3f}" if ratios else "-" for f in (statistics.median, min, max)]
            row.append(f"{statistics.median(cpu for _, cpu in rounds.values()):.3f}")
            out.append(row + latencies[key, name])
    return out


class Cell:
    """Everybody's figures at one point of the grid."""

    def __init__(self, key):
        self.transport, self.op, self.size, self.count, self.threads, self.place = key
        self.by = {}

    def what(self):
        size = {"65536": "64 KiB", "1048576": "1 MiB", "1024": "1 KiB"}.get(self.size, f"{self.size} B")
        op = {"miss": "GET, a miss", "ttl": "SET with a ttl", "pipeline": "GETs in flight"}.get(self.op, self.op.upper())
        if self.op == "pipeline":
            return f"{self.count} {op}"
        return f"{op} {size}" if self.count == "1" else f"{op} {self.count} × {size}"

    def where(self):
        threads = "" if self.threads == "1" else f", {self.threads} threads"
        transport = {"unix": "Unix", "tcp": "TCP", "tls": "TLS", "memory": "memory://"}[self.transport]
        place = "" if self.transport == "memory" or self.place == "free" else f", {PLACES[self.place]}"
        return transport + place + threads


def cells_of(lines):
    cells = {}
    for _, name, *rest in lines:
        key = tuple(rest[:6])
        fields = "rate h h_low h_high r r_low r_high cpu p50 p99 p999".split()
        figures = {field: None if text == "-" else float(text) for field, text in zip(fields, rest[6:])}
        cells.setdefault(key, Cell(key)).by[name] = figures
    return list(cells.values())


def number(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"


def size(value):
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def time(ns):
    for unit, name in ((1e6, "ms"), (1e3, "µs")):
        if ns >= unit:
            return f"{ns / unit:.3g} {name}"
    return f"{ns:.0f} ns"


def table(head, body):
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in body), ""]


def present(found):
    return [name for name in NAMES if name in found]


def counts_section(counts, folder):
    by = {(call, driver): (float(i), float(a)) for _, driver, call, i, a in counts}
    calls = list(dict.fromkeys(call for call, _ in by))
    names = present({driver for _, driver in by})
    (folder / "instructions.svg").write_text(
        svg.bars(
            "User-space instructions per call, over a Unix socket",
            "instructions (logarithmic; less is better)",
            [call for call in calls if "memory" not in call],
            names,
            {key: value[0] for key, value in by.items() if "memory" not in key[0]},
            logarithmic=True,
        ),
        encoding="utf-8",
    )
    out = ["### Instructions and allocations per call", "", "![Instructions per call](benchmark/instructions.svg)", ""]
    out += ["User-space instructions:", ""]
    out += table(["call", *names], [[c, *(number(by[c, n][0]) if (c, n) in by else "–" for n in names)] for c in calls])
    out += ["Allocations (`malloc` and its kin):", ""]
    out += table(["call", *names], [[c, *(f"{by[c, n][1]:g}" if (c, n) in by else "–" for n in names)] for c in calls])
    return out


def memory_section(memory):
    by = {(what, driver): float(value) for _, driver, what, value in memory}
    names = present({driver for _, driver in by})
    body = [[text, *(size(by[what, n]) if (what, n) in by else "–" for n in names)] for what, text in MEMORY.items()]
    return ["### Resident memory", "", *table(["", *names], body)]


def ratio(figures):
    if figures["h"] is None:
        return f"{number(figures['rate'])}/s"
    return f"{figures['h']:.2f} ({figures['h_low']:.2f}–{figures['h_high']:.2f})"


def rates_section(cells, folder):
    names = present({name for cell in cells for name in cell.by})
    out = ["### Throughput", "", "Calls per second as a ratio to hiredis in the same round: the median of the rounds, and the least and the"]
    out += ["greatest. Where hiredis has nothing to compare, calls per second.", ""]
    out += ["![One thread](benchmark/one-thread.svg)", "", "![Threads](benchmark/threads.svg)", ""]
    body = [[c.what(), c.where(), *(ratio(c.by[n]) if n in c.by else "–" for n in names)] for c in cells]
    out += table(["call", "where", *names], body)
    out += ["### Latency and processor time", "", "p50 / p99 / p99.9 of a call, and the client's processor time per call (user and system).", ""]
    out += ["![Latency](benchmark/latency.svg)", ""]
    some = [c for c in cells if "hiredis" in c.by]
    show = lambda f: f"{time(f['p50'])} / {time(f['p99'])} / {time(f['p999'])}; {f['cpu']:.3g} µs"
    out += table(
        ["call", "where", *names], [[c.what(), c.where(), *(show(c.by[n]) if n in c.by else "–" for n in names)] for c in some]
    )
    plots(cells, folder, [n for n in names if n != CALM])
    return out


def plots(cells, folder, names):
    alone = [c for c in cells if (c.transport, c.place, c.threads) == ("tcp", "apart", "1") and "hiredis" in c.by]
    wanted = ["GET 100 B", "SET 100 B", "GET 64 KiB", "MGET 100 × 100 B", "MSET 100 × 100 B", "MGET 1000 × 100 B"]
    alone = {c.what(): c for c in alone}
    groups = [what for what in wanted if what in alone]
    if groups:
        values = {(w, n): alone[w].by[n]["h"] for w in groups for n in names if n in alone[w].by}
        chart = svg.bars("One thread, a processor each, TCP", "calls per second, ratio to hiredis", groups, names, values, line=1)
        (folder / "one-thread.svg").write_text(chart, encoding="utf-8")
    gets = [c for c in cells if (c.transport, c.op, c.size, c.place) == ("tcp", "get", "100", "free")]
    gets.sort(key=lambda c: int(c.threads))
    if gets:
        steps = [c.threads for c in gets]
        for file, field, title, unit, logarithmic in (
            ("threads", "rate", "GET 100 B over TCP", "calls per second", False),
            ("latency", "p99", "GET 100 B over TCP: the slowest call of a hundred", "nanoseconds (p99, logarithmic)", True),
        ):
            values = {(c.threads, n): c.by[n][field] for c in gets for n in names if n in c.by}
            chart = svg.lines(title, unit, "threads", steps, names, values, logarithmic)
            (folder / f"{file}.svg").write_text(chart, encoding="utf-8")


def ahead_section(counts, memory, cells):
    """Wherever a peer does better than this library, by more than the spread where there is one."""
    out = []
    by = {(call, driver): (float(i), float(a)) for _, driver, call, i, a in counts}
    for (call, driver), value in by.items():
        for which, name in ((0, "instructions"), (1, "allocations")):
            mine = by.get((call, CALM), value)[which]
            if driver in PEERS and value[which] < mine:
                out.append(f"- {call}: {driver} has {number(value[which])} {name}, this library {number(mine)}.")
    held = {(what, driver): float(value) for _, driver, what, value in memory}
    for (what, driver), value in held.items():
        mine = held.get((what, OURS), value)
        if driver in PEERS and value < 0.95 * mine:
            out.append(f"- Memory, {MEMORY[what]}: {driver} {size(value)}, this library {size(mine)}.")
    for cell in cells:
        mine = cell.by.get(OURS)
        better = {n: f for n, f in cell.by.items() if n in PEERS and mine and f["rate"] > 1.05 * mine["rate"]}
        if better and (mine["h_high"] is None or mine["h_high"] < max(f["h"] for f in better.values())):
            ratios = ", ".join(f"{n} {f['rate'] / mine['rate']:.2f} ×" for n, f in better.items())
            out.append(f"- {cell.what()}, {cell.where()}: {ratios} this library's calls per second.")
    return ["### Where a peer is ahead", "", *(out or ["Nowhere in what was measured."]), ""]


def figures(folder):
    notes = rows(folder / "notes.tsv")
    counts, memory = rows(folder / "counts.tsv"), rows(folder / "memory.tsv")
    cells = cells_of(rows(folder / "rates.tsv"))
    others = next((int(r[2]) for r in rows(folder / "others.tsv")), 0)
    out = ["### What was measured", "", *(f"- {name}: {value}" for _, name, value in notes), ""]
    if not cells:
        out += ["Throughput and latency are not in yet: they need a machine with nothing else to do.", ""]
    else:
        busy = "**Measured on a busy machine**, for orientation only: while" if others > 5 else "While"
        out += [f"{busy} throughput and latency were measured, other programs had {others} % of the processors.", ""]
    if counts:
        out += counts_section(counts, folder)
    if memory:
        out += memory_section(memory)
    if cells:
        out += rates_section(cells, folder)
    return out + ahead_section(counts, memory, cells)


def write(results, docs):
    folder = docs / "benchmark"
    folder.mkdir(exist_ok=True)
    for name in ("notes", "counts", "memory", "others"):
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


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    page(pathlib.Path(sys.argv[-1]))
