"""The page's sections about calls in flight together, event loops and servers far away."""

import svg
from tables import (
    ASKED, ASYNCHRONOUS, CALM, EVENT, IN_FLIGHT, OURS, POLL, cells_table, counts_of, draw_lines, number, present,
    ratio, spread, table, time,
)

CALL = "GET 100 B, 64 in flight"
# Who waits in a call of the library's, and who in an event loop.
WAITING = ["raw", OURS, CALM, ASKED, "hiredis", "libvalkey", "redis_crate"]
LOOPS = [EVENT, POLL, *ASYNCHRONOUS]


def cost(figures):
    return f"{ratio(figures)}; {figures['cpu']:.3g} µs"


def times(figures):
    return f"{time(figures['p50'])} / {time(figures['p99'])} / {time(figures['p999'])}"


def best_async(cell, field):
    """The better one of those that call asynchronously through C."""
    had = [cell.by[name][field] for name in ("hiredis_async", "libvalkey_async") if name in cell.by]
    return (max if field == "rate" else min)(had, default=None)


def event_to_async(cell):
    """Calls per second and processor time beside those of the better one of hiredis and libvalkey."""
    if EVENT not in cell.by or best_async(cell, "rate") is None:
        return "–"
    mine = cell.by[EVENT]
    return f"{mine['rate'] / best_async(cell, 'rate'):.2f}; {mine['cpu'] / best_async(cell, 'cpu'):.2f}"


def flights_section(cells, counts, folder):
    """One thread that keeps several calls in flight."""
    by = counts_of(counts)
    out = ["### Several in flight from one thread", ""]
    counted = present({driver for call, driver in by if call == CALL})
    if counted:
        out += ["One GET of 64 in flight, over a Unix socket:", ""]
        rows = [["instructions", *(number(by[CALL, n][0]) for n in counted)]]
        rows += [["allocations", *(f"{by[CALL, n][1]:g}" for n in counted)]]
        out += table(["", *(IN_FLIGHT.get(n, n) for n in counted)], rows)
    if not cells:
        return out
    had = present({name for cell in cells for name in cell.by})
    waiting, loops = [n for n in had if n in WAITING], [n for n in had if n in LOOPS]
    looped = [cell for cell in cells if any(n in cell.by for n in loops)]
    out += ["Threads that wait in a call: GETs per second as a ratio to hiredis pipelined by hand, and the client's"]
    out += ["processor time for one.", "", "![In flight](benchmark/in-flight.svg)", ""]
    out += cells_table(cells, waiting, cost, IN_FLIGHT)
    out += ["Event loops: the same. The last column has `cachetory_event` beside the better one of `hiredis_async` and"]
    out += ["`libvalkey_async`: calls per second (more is better), processor time for one (less is better).", ""]
    out += ["![Event loops](benchmark/event-loops.svg)", ""]
    out += ["![Event loops: processor time](benchmark/event-loops-processor.svg)", ""]
    more = [(f"{EVENT} to the better of two", event_to_async)]
    out += cells_table(looped, loops, cost, more=more)
    out += ["From the submission of a GET to its completion, p50 / p99 / p99.9.", ""]
    out += ["![In flight: latency](benchmark/in-flight-latency.svg)", ""]
    out += cells_table(cells, waiting, times, IN_FLIGHT)
    out += cells_table(looped, loops, times)
    on_tcp = [c for c in cells if (c.transport, c.place, c.size) == ("tcp", "apart", "100")]
    together = [c for c in cells if (c.transport, c.place, c.size) == ("unix", "one", "100")]
    draw_lines(folder / "in-flight.svg", on_tcp, [n for n in waiting if n != ASKED], "count", "h",
               "GETs in flight from one thread, TCP, a processor each",
               "GETs per second, ratio to hiredis pipelined by hand", "in flight")
    draw_lines(folder / "event-loops.svg", together, loops, "count", "h",
               "GETs in flight from one event loop, Unix, one processor",
               "GETs per second, ratio to hiredis pipelined by hand", "in flight")
    draw_lines(folder / "event-loops-processor.svg", together, loops, "count", "cpu",
               "GETs in flight from one event loop, Unix, one processor: the client's processor time",
               "microseconds for a GET (logarithmic)", "in flight", True)
    draw_lines(folder / "in-flight-latency.svg", on_tcp, [n for n in had if n != ASKED], "count", "p99",
               "GETs in flight from one thread: the slowest of a hundred",
               "microseconds (p99, logarithmic)", "in flight", True)
    return out


def many_loops_section(cells, folder):
    """One loop, and four on four threads."""
    by = {(c.transport, c.count, c.place, c.threads): c for c in cells}
    rows, bars = [], {}
    for (transport, count, place, threads), four in by.items():
        one = by.get((transport, count, place, "1"))
        if threads == "1" or one is None:
            continue
        for name in (n for n in [OURS, *LOOPS] if n in one.by and n in four.by):
            rates = [number(cell.by[name]["rate"]) for cell in (one, four)]
            per_second = [1e6 / cell.by[name]["cpu"] for cell in (one, four)]
            quotient = f"{per_second[1] / per_second[0]:.2f}"
            rows.append([f"{count} in flight", one.where(), name, *rates, *map(number, per_second), quotient])
            for cell, loops in (one, "one loop"), (four, f"{threads} loops"):
                base = cell.by.get("hiredis_async")
                if place == "one" and base:
                    bars[f"{count} in flight, {loops}", name] = base["cpu"] / cell.by[name]["cpu"]
    if not rows:
        return []
    if bars:
        groups, names = list(dict.fromkeys(g for g, _ in bars)), present({n for _, n in bars})
        chart = svg.bars("Event loops on one and on four threads, Unix, one processor",
                         "calls per second of the client's processor time, ratio to hiredis_async", groups, names,
                         bars, line=1)
        (folder / "many-loops.svg").write_text(chart, encoding="utf-8")
    head = ["each loop", "where", "", "calls/s, one loop", "four loops", "calls per processor second, one loop",
            "four loops", "four to one"]
    return ["### Event loops on several threads", "",
            "One loop, and four with a thread each. The last column compares calls per processor second.", "",
            "![Event loops on several threads](benchmark/many-loops.svg)", "", *table(head, rows)]


def pollers_section(pollers):
    if not pollers:
        return []
    head = ["eight threads on one queue", "pieces of a reply", "poll returned", "for nothing",
            "for nothing, the most of one thread"]
    return ["### Threads that poll one queue", "",
            "For one reply, which arrives in many small pieces: how often `poll` returned in all the threads, how",
            "often `cachetory_queue_wait` then had nothing, and the most of that in one thread for any of them.", "",
            *table(head, [row[1:] for row in pollers])]


def far_rows(cells, of):
    rows = []
    for cell in cells:
        for name in present(cell.by):
            mine, base = cell.by[name], cell.by.get("hiredis")
            beside = [f"{mine[f] / base[f]:.2f}" if base else "–" for f in ("p50", "p99")]
            rate = spread(mine["h"], mine["h_low"], mine["h_high"]) if base else "–"
            rows.append([of(cell), name, number(mine.get("connections") or 0), rate, number(mine["rate"]),
                         f"{time(mine['p50'])} ({beside[0]})", f"{time(mine['p99'])} ({beside[1]})",
                         f"{mine['cpu']:.3g} µs"])
    return rows


def far_section(cells, folder):
    if not cells:
        return []
    threads = [c for c in cells if c.op == "get"]
    flights = [c for c in cells if c.op == "pipeline"]
    names = present({name for cell in threads for name in cell.by})
    head = ["connections", "calls/s to hiredis", "calls/s", "p50 (to hiredis)", "p99 (to hiredis)", "processor time"]
    out = ["### A server a millisecond away", ""]
    if threads:
        out += ["GET 100 B; hiredis has a connection for each thread.", ""]
        for what, file in ("", ""), (": latency", "-latency"), (": connections", "-connections"):
            out += [f"![A far server{what}](benchmark/far{file}.svg)", ""]
        out += table(["threads", "", *head], far_rows(threads, lambda c: c.threads))
    if flights:
        out += ["One thread, GET 100 B, several in flight; to hiredis by hand, which sends a batch and awaits it.", ""]
        out += table(["in flight", "", *head], far_rows(flights, lambda c: c.count))
    title = "GET 100 B, a server 1 ms away each way"
    for file, field, what, unit, logarithmic in (
        ("far", "h", "", "calls per second, ratio to hiredis", False),
        ("far-latency", "p99", ": the slowest call of a hundred", "microseconds (p99, logarithmic)", True),
        ("far-connections", "connections", ": connections", "used at the same time (logarithmic)", True),
    ):
        draw_lines(folder / f"{file}.svg", threads, names, "threads", field, title + what, unit, "threads", logarithmic)
    return out
