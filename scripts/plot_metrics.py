#!/usr/bin/env python3
"""Draw what scrl-train logged: loss, learning rate, accuracy, spread and speed by step, as one SVG file.

    plot_metrics.py RUN [RUN ...] [--out FILE.svg]

A RUN is the `--out` folder of scrl-train. Several runs are laid over each other, with the options in which they differ.
Without --out the drawing becomes metrics.svg in the (first) run's folder. It follows the light or dark colors of
whatever shows it. Needs no packages.
"""
import argparse
import collections
import json
import math
import pathlib
import sys
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, GAP = 960, 76, 24, 26
HEADER, LINE_HEIGHT, BOTTOM = 44, 18, 52
# Points drawn at most: about one for each pixel.
MOST_POINTS = 800
# Of a line of options, before it would leave the drawing.
MOST_LETTERS = 135
# The smooth line is the mean over so many parts of a run.
SMOOTH_PARTS = 60

# key of a line, title, height, whether the axis begins at 0, factor, whether it is noisy
Panel = collections.namedtuple("Panel", "key title height from_zero factor noisy")
PANELS = [
    Panel("loss", "loss", 250, False, 1, True),
    Panel("lr", "learning rate", 110, True, 1, False),
    Panel("online_acc", "online accuracy, %", 140, True, 100, True),
    Panel("projection_std", "spread of projections", 110, True, 1, True),
    Panel("pairs_per_s", "pairs/s", 110, True, 1, True),
]
# Shown of a single run, in this order.
OPTIONS = ["method", "arch", "batch-size", "accumulate", "lr", "epochs", "warmup-epochs", "ema", "weight-decay"]
# Told apart by hue and by lightness.
LIGHT = ["#0b62c4", "#c8501e", "#1a7f4b", "#8a3fb0", "#a67c00", "#b3245e", "#3a6b7e", "#555555"]
DARK = ["#6cb0ff", "#ff9a6b", "#5fd39a", "#d09bf0", "#e6c34d", "#ff86b3", "#8ec9dd", "#bbbbbb"]


class CannotPlot(Exception):
    pass


class Run:
    def __init__(self, path):
        folder = path if path.is_dir() else path.parent
        file = folder / "metrics.jsonl" if path.is_dir() else path
        self.name = folder.resolve().name
        self.folder = folder
        self.lines = []
        for text in file.read_text().splitlines():
            try:
                self.lines.append(json.loads(text))
            except ValueError:
                continue  # a line that is being written
        if not self.lines:
            raise CannotPlot(f"{file}: no step is logged yet")
        config = folder / "config.toml"
        self.options = dict(options_in(config.read_text())) if config.exists() else {}

    def points(self, key, factor):
        found = ((line["step"], line.get(key)) for line in self.lines)
        return [(step, value * factor) for step, value in found if value is not None and math.isfinite(value)]


def options_in(text):
    """The options of a config.toml, which is a flat list of them."""
    for line in text.splitlines():
        name, equals, value = line.partition(" = ")
        if equals:
            yield name, value.strip().strip('"')


def describe(run, others):
    """One run by its most telling options; several by those that differ."""
    if not others:
        names = [name for name in OPTIONS if name in run.options]
        if run.options.get("accumulate") == "1":
            names.remove("accumulate")
    else:
        places = {"out", "threads", "log-every", "checkpoint-every", "device"}
        every = sorted({name for r in [run, *others] for name in r.options} - places)
        names = [n for n in every if any(r.options.get(n) != run.options.get(n) for r in others)]
    described = " · ".join(f"{name} {run.options.get(name, '–')}" for name in names)
    return described if len(described) <= MOST_LETTERS else described[: MOST_LETTERS - 1] + "…"


def thinned(points):
    """The smallest and the largest of each run of neighbours, where there are more points than can be seen."""
    if len(points) <= 2 * MOST_POINTS:
        return points
    size = math.ceil(len(points) / MOST_POINTS)
    parts = (points[i : i + size] for i in range(0, len(points), size))
    ends = ((min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])) for part in parts)
    return [point for pair in ends for point in sorted(set(pair))]


def smoothed(points):
    """The mean around each point, over a window of the same length everywhere but at the ends."""
    reach = max(1, len(points) // SMOOTH_PARTS // 2)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    result = []
    for i, (step, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        result.append((step, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return result


def ticks(low, high, count):
    """Round numbers between low and high, at most about `count` of them."""
    raw = (high - low) / max(count, 1) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.8)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def shown(value):
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.6g}"


def text(x, y, content, style="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(content)}</text>'


def line_through(points, x, y, style):
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    if len(points) == 1:
        step, value = points[0]
        return f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.5" class="{style} dot"/>'
    return f'<polyline points="{path}" class="{style}"/>'


def draw_panel(panel, series, top, steps, is_last):
    """One panel: its grid, and of each run the values (thin) and their mean (thick)."""
    height, from_zero = panel.height, panel.from_zero
    values = [value for points in series for _, value in points]
    low, high = (min(0.0, min(values)) if from_zero else min(values)), max(values)
    if high == low:
        low, high = low - abs(low or 1) * 0.1, high + abs(high or 1) * 0.1
    room = (high - low) * 0.06
    low, high = low - (0 if from_zero and low == 0 else room), high + room
    first, last = steps

    def x(step):
        return LEFT + (step - first) / max(last - first, 1) * (WIDTH - LEFT - RIGHT)

    def y(value):
        return top + height - (value - low) / (high - low) * height

    parts = [text(LEFT, top - 7, panel.title, "title")]
    for value in ticks(low, high, height / 30):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" class="grid"/>')
        parts.append(text(LEFT - 8, y(value) + 4, shown(value), "tick", "end"))
    for step in ticks(first, last, 8):
        if step == int(step):
            parts.append(f'<path d="M{x(step):.1f} {top}V{top + height}" class="grid"/>')
            if is_last:
                parts.append(text(x(step), top + height + 18, f"{step:.0f}", "tick", "middle"))
    for number, points in enumerate(series):
        if not points:
            continue
        color = f"run{number % len(LIGHT)}"
        if not panel.noisy:
            parts.append(line_through(thinned(points), x, y, f"{color} thick"))
        elif len(points) > 2 * SMOOTH_PARTS:
            parts.append(line_through(thinned(points), x, y, f"{color} thin"))
            parts.append(line_through(smoothed(points)[:: max(1, len(points) // MOST_POINTS)], x, y, f"{color} thick"))
        else:
            parts.append(line_through(points, x, y, f"{color} thick"))
    if is_last:
        parts.append(text((LEFT + WIDTH - RIGHT) / 2, top + height + 40, "step", "tick", "middle"))
    return parts


def style():
    def colors(palette, paper, ink, faint, grid):
        runs = "".join(f".run{i}{{stroke:{c}}}.run{i}.dot,.run{i}.name{{fill:{c}}}" for i, c in enumerate(palette))
        return f".paper{{fill:{paper}}}text{{fill:{ink}}}.tick,.note{{fill:{faint}}}.grid{{stroke:{grid}}}{runs}"

    light = colors(LIGHT, "#ffffff", "#1b1f24", "#57606a", "#e3e6ea")
    dark = colors(DARK, "#14171c", "#e8eaed", "#9aa3ad", "#2b313a")
    shapes = (
        "text{font:13px system-ui,'Segoe UI',Helvetica,Arial,sans-serif;stroke:none}"
        ".head{font-size:17px;font-weight:600}.title{font-weight:600}.tick{font-size:11.5px}.note{font-size:12px}"
        "polyline{fill:none;stroke-linejoin:round}.thin{stroke-width:1;opacity:.3}.thick{stroke-width:2}"
    )
    return f"<style>{shapes}{light}@media (prefers-color-scheme:dark){{{dark}}}</style>"


def draw(runs):
    head = "scrl-train: " + (runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    top = HEADER
    parts = [text(LEFT, 28, head, "head")]
    for number, run in enumerate(runs):
        about = describe(run, [other for other in runs if other is not run])
        if len(runs) == 1:
            parts.append(text(LEFT, top + 4, about, "note"))
        else:
            parts.append(f'<path d="M{LEFT} {top}h18" class="run{number % len(LIGHT)} thick"/>')
            name = escape(run.name)
            note = f'<tspan class="note" dx="10">{escape(about)}</tspan>'
            parts.append(f'<text x="{LEFT + 26}" y="{top + 4}">{name}{note}</text>')
        top += LINE_HEIGHT
    every_step = [line["step"] for run in runs for line in run.lines]
    steps = min(every_step), max(every_step)
    drawn = [(panel, [run.points(panel.key, panel.factor) for run in runs]) for panel in PANELS]
    drawn = [(panel, series) for panel, series in drawn if any(series)]
    top += GAP
    for number, (panel, series) in enumerate(drawn):
        parts += draw_panel(panel, series, top, steps, number == len(drawn) - 1)
        top += panel.height + GAP + 10
    height = top - GAP - 10 + BOTTOM
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    paper = f'<rect width="{WIDTH}" height="{height}" class="paper"/>'
    return "\n".join([opening, f"<title>{escape(head)}</title>", style(), paper, *parts, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description="Draw the metrics of runs of scrl-train as an SVG file.")
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="a run's --out folder")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="default: metrics.svg in the first RUN")
    args = parser.parse_args()
    try:
        runs = [Run(path) for path in args.runs]
        if len({run.name for run in runs}) < len(runs):
            for run, path in zip(runs, args.runs):
                run.name = str(path)
        out = args.out or runs[0].folder / "metrics.svg"
        out.write_text(draw(runs), encoding="utf-8")
    except (CannotPlot, OSError) as error:
        print(f"plot_metrics: {error}", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
