#!/usr/bin/env python3
"""The figures of scripts/experiment.sh: tables (results.md) and drawings (results.svg, training.svg) of what lies in OUT.

    experiment_table.py OUT

OUT/NAME/SEED/roi/results.json and …/linear/results.json are read, whichever are there. Needs no packages.
"""
import json
import pathlib
import statistics
import sys

import plot_metrics
from plot_metrics import LEFT, RIGHT, WIDTH, text

MAIN = ["random", "byol", "scrl"]
TITLES = {
    "random": "random",
    "byol": "BYOL",
    "scrl": "SCRL (10 boxes)",
    "boxes-1": "1 box",
    "boxes-5": "5 boxes",
    "jitter-10": "box jitter 10 %",
    "jitter-20": "box jitter 20 %",
    "no-iou-rule": "no IoU rule",
}
PROTOCOLS = {"roi": "RoI", "linear": "global"}
PANEL, GAP = 190, 56


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    found = read(out)
    if not found:
        sys.exit(f"experiment_table: {out}: no results.json below it; scripts/experiment.sh makes them")
    (out / "results.md").write_text(tables(found))
    (out / "results.svg").write_text(draw(found))
    firsts = [min(out.glob(f"{name}/*/metrics.jsonl"), default=None) for name in MAIN]
    runs = [plot_metrics.Run(first.parent) for first in firsts if first]
    for run in runs:
        run.name = TITLES[run.folder.parent.name]
    if runs:
        (out / "training.svg").write_text(plot_metrics.draw(runs))
    print(tables(found))


def read(out):
    """{name: {protocol: {seed: results}}}, for the names of TITLES that have any."""
    found = {}
    for name in TITLES:
        for protocol in PROTOCOLS:
            for path in sorted(out.glob(f"{name}/*/{protocol}/results.json")):
                of_name = found.setdefault(name, {})
                of_name.setdefault(protocol, {})[path.parts[-3]] = json.loads(path.read_text())
    return found


def tops(found, name, protocol, seeds=None):
    """Top-1 in percent of each seed, or of those of `seeds`."""
    every = found.get(name, {}).get(protocol, {})
    return [100 * results["top1"] for seed, results in every.items() if seeds is None or seed in seeds]


def cell(values):
    """Mean and standard deviation over the seeds, and each of them."""
    if not values:
        return "–"
    each = ", ".join(f"{value:.1f}" for value in values)
    if len(values) == 1:
        return f"{each}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({each})"


def tables(found):
    parts = []
    ablations = [name for name in TITLES if name not in MAIN]
    # Beside them SCRL of the same seeds.
    ablated = {seed for name in ablations for of_name in found.get(name, {}).values() for seed in of_name}
    for names, seeds in ((MAIN, None), (["scrl", *ablations], ablated)):
        rows = [name for name in names if name in found]
        if len(rows) < 2:
            continue
        head = [f"{title}, top-1 %" for title in PROTOCOLS.values()]
        parts.append("\n".join([
            "| backbone | " + " | ".join(head) + " |",
            "|---|---|---|",
            *(f"| {TITLES[n]} | " + " | ".join(cell(tops(found, n, p, seeds)) for p in PROTOCOLS) + " |" for n in rows),
        ]))
    return "\n\n".join(parts) + "\n"


def draw(found):
    """A panel a protocol: a dot a seed, a line at their mean."""
    names = [name for name in TITLES if name in found]
    top, parts = 64, [text(LEFT, 28, "Top-1 of linear layers on frozen backbones", "head")]
    step = (WIDTH - LEFT - RIGHT) / len(names)
    for protocol, title in PROTOCOLS.items():
        values = {name: tops(found, name, protocol) for name in names}
        every = [value for of_name in values.values() for value in of_name]
        if not every:
            continue
        low, high = min(every), max(every)
        room = max(high - low, 1) * 0.12
        low, high = low - room, high + room

        def y(value):
            return top + PANEL - (value - low) / (high - low) * PANEL

        parts.append(text(LEFT, top - 9, f"{title} protocol, %", "title"))
        for value in plot_metrics.ticks(low, high, 6):
            parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" class="grid"/>')
            parts.append(text(LEFT - 8, y(value) + 4, plot_metrics.shown(value), "tick", "end"))
        for number, name in enumerate(names):
            middle, color = LEFT + (number + 0.5) * step, f"run{number % len(plot_metrics.LIGHT)}"
            for place, value in enumerate(values[name]):
                x = middle + 9 * (place - (len(values[name]) - 1) / 2)
                parts.append(f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="4" class="{color} dot"/>')
            if values[name]:
                mean = y(statistics.mean(values[name]))
                parts.append(f'<path d="M{middle - 26:.1f} {mean:.1f}h52" class="{color} thick"/>')
            parts.append(text(middle, top + PANEL + 18, TITLES[name], "tick", "middle"))
        top += PANEL + GAP
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}">'
    paper = f'<rect width="{WIDTH}" height="{top}" class="paper"/>'
    return "\n".join([opening, plot_metrics.style(), paper, *parts, "</svg>", ""])


if __name__ == "__main__":
    main()
