#!/usr/bin/env python3
"""The tables of scripts/experiment.sh, OUT/results.md.

    experiment_table.py OUT

Reads the files OUT/NAME/SEED/roi/results.json and OUT/NAME/SEED/linear/results.json that exist.
Needs no packages.
"""
import json
import pathlib
import statistics
import sys

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


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    found = read(out)
    if not found:
        reason = "no results.json below it; scripts/experiment.sh makes them"
        sys.exit(f"experiment_table: {out}: {reason}")
    (out / "results.md").write_text(tables(found))
    print(tables(found))


def read(out):
    """{name: {protocol: {seed: results}}}, for the names of TITLES that have results."""
    found = {}
    for name in TITLES:
        for protocol in PROTOCOLS:
            for path in sorted(out.glob(f"{name}/*/{protocol}/results.json")):
                of_name = found.setdefault(name, {})
                of_name.setdefault(protocol, {})[path.parts[-3]] = json.loads(path.read_text())
    return found


def tops(found, name, protocol, seeds=None):
    """Top-1 in percent of each seed, or of each of `seeds`."""
    every = found.get(name, {}).get(protocol, {})
    chosen = [results for seed, results in every.items() if seeds is None or seed in seeds]
    return [100 * results["top1"] for results in chosen]


def cell(values):
    """Mean and standard deviation over the seeds, and the value of each."""
    if not values:
        return "–"
    each = ", ".join(f"{value:.1f}" for value in values)
    if len(values) == 1:
        return f"{each}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({each})"


def tables(found):
    parts = []
    ablations = [name for name in TITLES if name not in MAIN]
    # SCRL of the same seeds is the baseline.
    protocols = [of_name for name in ablations for of_name in found.get(name, {}).values()]
    ablated = {seed for of_protocol in protocols for seed in of_protocol}
    for names, seeds in ((MAIN, None), (["scrl", *ablations], ablated)):
        rows = [name for name in names if name in found]
        if len(rows) < 2:
            continue
        head = [f"{title}, top-1 %" for title in PROTOCOLS.values()]
        lines = ["| backbone | " + " | ".join(head) + " |", "|---|---|---|"]
        for name in rows:
            cells = [cell(tops(found, name, protocol, seeds)) for protocol in PROTOCOLS]
            lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
