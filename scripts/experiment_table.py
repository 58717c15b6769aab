#!/usr/bin/env python3
"""The tables of scripts/experiment.sh, OUT/results.md.

    experiment_table.py OUT

Reads the files NAME/SEED/PROTOCOL/results.json that exist in OUT and, for runs of several budgets,
in the folders OUT/pairs-PAIRS. Needs no packages.
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
PROTOCOLS = {"roi": "RoI", "roi-few": "RoI from few boxes", "linear": "global"}
BUDGETS = "pairs-"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    found, budgets = read(out), read_budgets(out)
    if not found and not budgets:
        reason = "no results.json below it; scripts/experiment.sh makes them"
        sys.exit(f"experiment_table: {out}: {reason}")
    text = budget_tables(found, budgets) if budgets else tables(found)
    (out / "results.md").write_text(text)
    print(text)


def read(out):
    """{name: {protocol: {seed: results}}}, for the names of TITLES that have results."""
    found = {}
    for name in TITLES:
        for protocol in PROTOCOLS:
            for path in sorted(out.glob(f"{name}/*/{protocol}/results.json")):
                of_name = found.setdefault(name, {})
                of_name.setdefault(protocol, {})[path.parts[-3]] = json.loads(path.read_text())
    return found


def read_budgets(out):
    """{pairs: the results of `read`}, in ascending order."""
    folders = {int(path.name.removeprefix(BUDGETS)): path for path in out.glob(BUDGETS + "*")}
    budgets = {pairs: read(folders[pairs]) for pairs in sorted(folders)}
    return {pairs: found for pairs, found in budgets.items() if found}


def tops(found, name, protocol, seeds=None):
    """Top-1 in percent of each seed, or of each of `seeds`, by seed."""
    every = found.get(name, {}).get(protocol, {})
    chosen = {seed: every[seed] for seed in every if seeds is None or seed in seeds}
    return {seed: 100 * results["top1"] for seed, results in chosen.items()}


def cell(values, sign=""):
    """Mean and standard deviation over the seeds, and the value of each."""
    if not values:
        return "–"
    each = ", ".join(f"{value:{sign}.1f}" for value in values)
    if len(values) == 1:
        return f"{each}"
    return f"{statistics.mean(values):{sign}.1f} ± {statistics.stdev(values):.1f} ({each})"


def table(first, protocols, rows):
    """Rows are a title and a cell for each protocol."""
    head = [f"{PROTOCOLS[protocol]}, top-1 %" for protocol in protocols]
    lines = [f"| {first} | " + " | ".join(head) + " |", "|---" * (len(protocols) + 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def protocols_of(*found):
    """The protocols that have results, in the order of PROTOCOLS."""
    names = [of_name for each in found for of_name in each.values()]
    return [protocol for protocol in PROTOCOLS if any(protocol in name for name in names)]


def tables(found):
    parts = []
    ablations = [name for name in TITLES if name not in MAIN]
    # SCRL of the same seeds is the baseline.
    protocols = [of_name for name in ablations for of_name in found.get(name, {}).values()]
    ablated = {seed for of_protocol in protocols for seed in of_protocol}
    for names, seeds in ((MAIN, None), (["scrl", *ablations], ablated)):
        names = [name for name in names if name in found]
        if len(names) < 2:
            continue
        protocols = protocols_of(found)
        rows = []
        for name in names:
            values = [tops(found, name, protocol, seeds) for protocol in protocols]
            rows.append([TITLES[name], *(cell(list(each.values())) for each in values)])
        parts.append(table("backbone", protocols, rows))
    return "\n\n".join(parts) + "\n"


def budget_tables(random, budgets):
    """Every backbone of every budget, and the differences from SCRL of the same seeds."""
    protocols = protocols_of(random, *budgets.values())
    rows, differences = [], []

    def add(to, title, of_protocol, sign=""):
        to.append([title, *(cell(list(of_protocol(each).values()), sign) for each in protocols)])

    if random:
        add(rows, "random", lambda protocol: tops(random, "random", protocol))
    for pairs, found in budgets.items():
        for name in found:
            title = f"{TITLES[name]}, {pairs:,} pairs"
            add(rows, title, lambda protocol: tops(found, name, protocol))
            if name != "scrl" and "scrl" in found:
                title = f"SCRL − {TITLES[name]}, {pairs:,} pairs"
                add(differences, title, lambda protocol: differ(found, name, protocol), "+")
    parts = [table("backbone", protocols, rows)]
    if differences:
        parts.append(table("difference by seed", protocols, differences))
    return "\n\n".join(parts) + "\n"


def differ(found, name, protocol):
    """Top-1 of SCRL less that of another backbone, in points, for each seed that both have."""
    scrl, other = tops(found, "scrl", protocol), tops(found, name, protocol)
    return {seed: scrl[seed] - other[seed] for seed in scrl if seed in other}


if __name__ == "__main__":
    main()
