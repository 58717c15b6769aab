#!/usr/bin/env python3
"""Writes report.md, report.json and report.tar from what the parts of gpu_report.sh left so far.

    gpu_report_page.py PACK WORK OUT

Each file replaces the last one at once, under its final name.
"""
import json
import pathlib
import re
import statistics
import sys
import tarfile

# Dense TFLOP/s without sparsity, from NVIDIA's data sheets: bf16 on tensor cores, f32 without TF32.
PEAKS = {
    "H200": (989, 67), "H100 PCIe": (756, 51), "H100 NVL": (835, 60), "H100": (989, 67),
    "A100": (312, 19.5), "L40S": (362, 91.6),
}
TITLES = {
    "plans": "engines of the plans", "ops": "ops against the CPU", "steps": "steps against the CPU",
    "ranks": "one rank by NCCL", "same_bits": "same bits twice", "profile": "profile by op",
    "sanitizer": "compute-sanitizer on one step", "shards_prepare": "shards from the images",
    "shards_train": "steps from the shards", "eval": "scrl-eval linear",
}


def read(path):
    return path.read_text(errors="replace") if path.exists() else ""


def read_json(path):
    """None where a part wrote nothing, or was killed as it wrote."""
    try:
        return json.loads(read(path))
    except ValueError:
        return None


def keys(path):
    return dict(line.split(": ", 1) for line in read(path).splitlines() if ": " in line)


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return ["| " + " | ".join(line) + " |" for line in cells] + [""]


def number(value, digits=1):
    return "" if value is None else f"{value:,.{digits}f}"


def collect(pack, work):
    """What report.json holds."""
    parts = []
    for line in read(work / "parts.tsv").splitlines():
        name, state, seconds, note = line.split("\t")
        parts.append({"part": name, "state": state, "seconds": float(seconds), "note": note})
    environment = keys(work / "logs/environment.log")
    gpu = environment.get("gpu", "unknown")
    peak = dict(zip(("bf16", "f32"), next((p for name, p in PEAKS.items() if name in gpu), ())))
    found = {part["part"]: read_json(work / f"json/{part['part']}.json") for part in parts}
    profile, plans = found.pop("profile", None), found.pop("plans", None)
    speed = {name: result for name, result in found.items() if result}
    for result in speed.values():
        of = peak.get(result.get("precision"))
        result["share_of_peak"] = result["tflops"] / of if of and result.get("tflops") else None
    # A killed run can leave half a line.
    lines = read(work / "run/metrics.jsonl").splitlines()
    return {
        "build": keys(pack / "BUILD"), "environment": environment, "peak": peak, "parts": parts,
        "speed": speed, "profile": profile, "plans": plans,
        "shards": [json.loads(line) for line in lines if line.endswith("}")],
        "eval": read_json(work / "eval/results.json"),
    }


def parts_page(data, logs):
    parts = data["parts"]
    bad = [part["part"] for part in parts if part["state"] == "failed"]
    page = [f"{len(parts)} parts, {len(bad)} failed" + (f": {', '.join(bad)}." if bad else "."), ""]
    built = [(f"build: {name}", value) for name, value in data["build"].items()]
    page += table(["machine and build", ""], [*data["environment"].items(), *built])
    page += ["## Parts", ""]
    page += table(["part", "result", "seconds", ""], [
        (TITLES.get(p["part"], p["part"].replace("_", " ")), p["state"], number(p["seconds"]),
         p["note"]) for p in parts])
    for name in bad:
        log = [line[:300] for line in read(logs / f"{name}.log").splitlines()[-15:]]
        page += [f"The end of `logs/{name}.log`:", "", "````text", *log, "````", ""]
    return page


def speed_page(results, peak):
    page = ["## Speed", "", "Milliseconds a step: median (min–max), in the order in which they ran."
            f" The peak of this GPU is {peak.get('bf16', 'unknown')} TFLOP/s in bf16 and"
            f" {peak.get('f32', 'unknown')} in f32. Each program counts its own operations, so"
            " compare pairs/s.", ""]
    head = ["run", "precision", "pairs", "ms a step", "pairs/s", "TFLOP/s", "of peak"]
    page += table([*head, "peak memory, GiB"], [
        (name.replace("_", " "), r.get("precision"), r.get("batch_size"),
         f"{number(r.get('ms_median'))} ({number(r.get('ms_min'))}–{number(r.get('ms_max'))})",
         number(r.get("pairs_per_s")), number(r.get("tflops")),
         "unknown" if r["share_of_peak"] is None else f"{r['share_of_peak']:.1%}",
         number((r.get("peak_memory_bytes") or 0) / 2**30, 2)) for name, r in results.items()])
    for name, other in results.items():
        if not name.startswith("pytorch_"):
            continue
        _, mode, pairs = name.split("_")
        ours = [r["pairs_per_s"] for n, r in results.items() if n.startswith(f"scrl_bf16_{pairs}")]
        if ours:
            ratio = statistics.mean(ours) / other["pairs_per_s"]
            page += [f"- {pairs} pairs: scrl-train has {ratio:.2f} times the pairs/s of PyTorch,"
                     f" {mode} mode."]
    return page + [""]


def profile_page(profile):
    ops = sorted(profile["parts"], key=lambda op: -op["ms"])
    total = sum(op["ms"] for op in ops) or 1
    page = ["## Profile", "", f"{profile['batch_size']} pairs, {profile['precision']}; a step took"
            f" {number(profile['ms_median'])} ms while profiled, the ops {number(total)} ms"
            " together.", ""]
    return page + table(["op", "ms", "of all ops", "calls"], [
        (op["name"], number(op["ms"], 2), f"{op['ms'] / total:.1%}", op["calls"])
        for op in ops[:40]])


def plans_page(found):
    page = ["## Engines of the plans", "", f"cuDNN {found['cudnn']}, {found['precision']}. Of a step"
            f" the chosen engines, each the first of its row, take {number(found['ms_chosen'])} ms,"
            f" the fastest {number(found['ms_fastest'])} ms.", ""]
    rows = []
    for plan in found["plans"]:
        shape = (f"{plan['height']}×{plan['width']}×{plan['inputs']} → {plan['outputs']},"
                 f" {plan['kernel']}×{plan['kernel']}/{plan['stride']}")
        engines = [f"{e['engine']} ({e['mode']} {e['rank']}) {e['ms']:.3f}"
                   for e in plan["engines"]]
        rows.append((plan["pass"], shape, plan["calls_of_a_step"], "; ".join(engines)))
    return page + table(["pass", "convolution", "calls", "engine (mode, rank) ms"], rows)


def shards_page(metrics, log):
    said = re.findall(r"^\d+ (?:images|epochs).*", read(log), re.M)
    later = metrics[1:] or metrics
    page = ["## Training from shards", "", f"{'; '.join(said)}. After the first line, the median is"
            f" {number(statistics.median(m['pairs_per_s'] for m in later))} pairs/s, and"
            f" {statistics.median(m['data_wait'] for m in later):.1%} of the time was spent"
            " waiting for data.", ""]
    head = ["step", "epoch", "loss", "learning rate", "boxes", "pairs/s", "data wait"]
    return page + table(head, [
        (m["step"], m["epoch"], number(m["loss"], 4), f"{m['lr']:.4g}", m["boxes"],
         number(m["pairs_per_s"]), f"{m['data_wait']:.1%}") for m in metrics])


def replace(path, write):
    """Writes a file beside the path, and renames it."""
    new = path.with_name(path.name + ".new")
    write(new)
    new.replace(path)


def main():
    pack, work, out = map(pathlib.Path, sys.argv[1:4])
    data = collect(pack, work)
    page = ["# scrl on a GPU", "", *parts_page(data, work / "logs")]
    if data["speed"]:
        page += speed_page(data["speed"], data["peak"])
    if data["profile"] and data["profile"].get("parts"):
        page += profile_page(data["profile"])
    if data["plans"]:
        page += plans_page(data["plans"])
    if data["shards"]:
        page += shards_page(data["shards"], work / "logs/shards_prepare.log")
    if found := data["eval"]:
        seconds = next(p["seconds"] for p in data["parts"] if p["part"] == "eval")
        page += ["## scrl-eval", "", f"{found['train_examples']} training and"
                 f" {found['val_examples']} validation images with random weights:"
                 f" {number(seconds)} s in all, {found['top1']:.1%} right.", ""]
    text = "\n".join(page).rstrip() + "\n"
    replace(out / "report.json", lambda path: path.write_text(json.dumps(data, indent=1) + "\n"))
    replace(out / "report.md", lambda path: path.write_text(text))

    def pack_all(path):
        with tarfile.open(path, "w") as tar:
            for name in "report.md", "report.json":
                tar.add(out / name, name)
            for name in "parts.tsv", "logs", "json", "run/metrics.jsonl", "eval/results.json":
                if (work / name).exists():
                    tar.add(work / name, name)

    replace(out / "report.tar", pack_all)


if __name__ == "__main__":
    main()
