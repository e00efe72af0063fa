"""Two kinds of plain SVG charts: bars in groups, and lines."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 90, 60
COLOURS = {
    "cachetory": "#1b6ac9",
    "cachetory?spin_us=0": "#8fbcf0",
    "cachetory?max_connections=1": "#17a2b8",
    "cachetory_asked": "#5b7aa5",
    "cachetory_event": "#00a887",
    "cachetory_fd": "#12457f",
    "raw": "#9a9a9a",
    "hiredis": "#d1495b",
    "libvalkey": "#edae49",
    "redis_crate": "#6a994e",
    "glide": "#7b5ea7",
    "hiredis_async": "#7d1f2d",
    "libvalkey_async": "#a06a10",
    "redis_crate_async": "#33561f",
}


def text(x, y, words, anchor="middle", size=12, extra=""):
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" {extra}>{escape(str(words))}</text>'


def short(value):
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


class Scale:
    """From a value to its height in the picture."""

    def __init__(self, values, logarithmic):
        self.logarithmic = logarithmic
        top = max(values)
        if logarithmic:
            self.low = 10 ** math.floor(math.log10(min(values)))
            self.high = 10 ** math.ceil(math.log10(top * 1.01))
            self.ticks = [self.low * 10**i for i in range(round(math.log10(self.high / self.low)) + 1)]
        else:
            step = 10 ** math.floor(math.log10(top))
            step = next(s for s in (step / 5, step / 2, step, step * 2) if top / s <= 6)
            self.low = 0
            self.high = math.ceil(top * 1.02 / step) * step
            self.ticks = [step * i for i in range(round(self.high / step) + 1)]

    def y(self, value):
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def frame(title, unit, scale, names):
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 22, title, "start", 15, 'font-weight="bold"'),
        text(LEFT - 8, TOP - 10, unit, "start", 11),
    ]
    for tick in scale.ticks:
        y = scale.y(tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y + 4, short(tick), "end", 11))
    x, y = LEFT, 31
    for name in names:
        width = 28 + 6.5 * len(name)
        if x + width > WIDTH:
            x, y = LEFT, y + 17
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="11" height="11" fill="{COLOURS[name]}"/>')
        parts.append(text(x + 15, y + 10, name, "start", 11))
        x += width
    return parts


def bars(title, unit, groups, names, values, logarithmic=False, line=None):
    """`values[group, name]`, where there is one; `line` is a value that is drawn across."""
    scale = Scale(list(values.values()), logarithmic)
    parts = frame(title, unit, scale, names)
    span = (WIDTH - LEFT - RIGHT) / len(groups)
    there = {group: [name for name in names if (group, name) in values] for group in groups}
    width = span * 0.84 / max(len(some) for some in there.values())
    floor = HEIGHT - BOTTOM
    for g, group in enumerate(groups):
        middle = LEFT + span * (g + 0.5)
        start = middle - width * len(there[group]) / 2
        parts.append(text(middle, floor + 18, group, size=11))
        for n, name in enumerate(there[group]):
            y = scale.y(values[group, name])
            parts.append(
                f'<rect x="{start + n * width:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{floor - y:.1f}" '
                f'fill="{COLOURS[name]}"><title>{escape(name)}: {values[group, name]:g}</title></rect>'
            )
    if line is not None:
        y = scale.y(line)
        where = f'x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"'
        parts.append(f'<line {where} stroke="#222" stroke-dasharray="4 3"/>')
    return "\n".join([*parts, "</svg>", ""])


def lines(title, unit, below, steps, names, values, logarithmic=False):
    """`values[step, name]`, where there is one; the steps stand at equal distances."""
    scale = Scale(list(values.values()), logarithmic)
    parts = frame(title, unit, scale, names)
    gap = (WIDTH - LEFT - RIGHT) / max(len(steps), 1)
    places = {step: LEFT + gap * (i + 0.5) for i, step in enumerate(steps)}
    for step, x in places.items():
        parts.append(text(x, HEIGHT - BOTTOM + 18, step, size=11))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38, below))
    for name in names:
        points = [(places[step], scale.y(values[step, name])) for step in steps if (step, name) in values]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[name]}"/>' for x, y in points]
    return "\n".join([*parts, "</svg>", ""])
