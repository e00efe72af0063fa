"""What the page's sections have in common: names, points of the grid, numbers in words, tables, plots along a step."""

import textwrap

import svg

OURS = "cachetory"
CALM = "cachetory?spin_us=0"
FEW = "cachetory?max_connections=1"
ASKED = "cachetory_asked"
EVENT, POLL = "cachetory_event", "cachetory_fd"
ASYNCHRONOUS = ["hiredis_async", "libvalkey_async", "redis_crate_async"]
PEERS = ["hiredis", "libvalkey", "redis_crate", "glide", *ASYNCHRONOUS]
NAMES = ["raw", OURS, CALM, FEW, ASKED, EVENT, POLL, *PEERS]
# What the columns are where one thread keeps several calls in flight.
IN_FLIGHT = {"hiredis": "hiredis by hand", "libvalkey": "libvalkey by hand", "redis_crate": "redis_crate pipeline"}
PLACES = {"one": "one processor", "apart": "a processor each", "free": "free", "busy": "busy machine"}


class Cell:
    """Everybody's figures at one point of the grid."""

    def __init__(self, key):
        self.transport, self.op, self.size, self.count, self.threads, self.place = key
        self.by = {}

    def what(self):
        size = {"65536": "64 KiB", "1048576": "1 MiB", "1024": "1 KiB"}.get(self.size, f"{self.size} B")
        op = {"miss": "GET, a miss", "ttl": "SET with a ttl"}.get(self.op, self.op.upper())
        if self.op == "pipeline":
            return f"GET {size}, {self.count} in flight"
        return f"{op} {size}" if self.count == "1" else f"{op} {self.count} × {size}"

    def where(self):
        threads = "" if self.threads == "1" else f", {self.threads} threads"
        names = {"unix": "Unix", "tcp": "TCP", "tls": "TLS", "far": "a far server", "memory": "memory://"}
        transport = names[self.transport]
        place = "" if self.transport == "memory" or self.place == "free" else f", {PLACES[self.place]}"
        return transport + place + threads


def cells_of(lines):
    cells = {}
    for _, name, *rest in lines:
        key = tuple(rest[:6])
        fields = "rate h h_low h_high r r_low r_high cpu p50 p99 p999 connections".split()
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
    lines = ["| " + " | ".join(row) + " |" for row in (head, *body)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:], ""]


def item(text):
    """A line of a list, wrapped."""
    return textwrap.wrap(f"- {text}", 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def present(found):
    return [name for name in NAMES if name in found]


def counts_of(counts):
    return {(call, driver): (float(i), float(a)) for _, driver, call, i, a in counts}


def spread(middle, low, high):
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def ratio(figures):
    if figures["h"] is None:
        return f"{number(figures['rate'])}/s"
    return spread(figures["h"], figures["h_low"], figures["h_high"])


def ratio_to_raw(figures):
    return "–" if figures is None or figures["r"] is None else spread(figures["r"], figures["r_low"], figures["r_high"])


def latency(figures):
    return f"{time(figures['p50'])} / {time(figures['p99'])} / {time(figures['p999'])}; {figures['cpu']:.3g} µs"


def cells_table(cells, names, show, heads=None, more=()):
    """A row for each cell, a column for each name, and further columns out of (head, function of the cell)."""
    head = ["call", "where", *((heads or {}).get(n, n) for n in names), *(title for title, _ in more)]
    body = [
        [c.what(), c.where(), *(show(c.by[n]) if n in c.by else "–" for n in names), *(f(c) for _, f in more)]
        for c in cells
    ]
    return table(head, body)


def draw_lines(path, cells, names, along, field, title, unit, below, logarithmic=False):
    cells = sorted(cells, key=lambda c: int(getattr(c, along)))
    steps = list(dict.fromkeys(getattr(c, along) for c in cells))
    unit_of = 1000 if field == "p99" else 1
    had = ((c, n) for c in cells for n in names if n in c.by and c.by[n][field])
    values = {(getattr(c, along), n): c.by[n][field] / unit_of for c, n in had}
    if values:
        names = [n for n in names if any((step, n) in values for step in steps)]
        path.write_text(svg.lines(title, unit, below, steps, names, values, logarithmic), encoding="utf-8")
