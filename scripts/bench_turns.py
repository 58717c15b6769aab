#!/usr/bin/env python3
"""Time programs in turns and compare them: the part that bench_prep.sh and bench_train.sh share.

    bench_turns.py prep IMAGES [--epochs N] [options]
    bench_turns.py train [options]

The sides of a row run one after the other, as often as --turns says: A B A B A B. So what slows the
machine down for a while slows down each side. A row shows the median of a side with its minimum and
maximum, the peak memory of its process, and how many times the pairs a second of that side this
build has. The file of --json has every run, the machine, the commit and the date.
"""
import argparse
import datetime
import importlib.util
import json
import os
import pathlib
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from bench_prep_peers import NOT_INSTALLED, PEERS

SCRIPTS = pathlib.Path(__file__).resolve().parent
# A recipe takes little time, so more epochs are made of them.
RECIPE_EPOCHS = 125
TRAINING = [("resnet18", 96, 16), ("resnet50", 224, 8)]
SMOKE_TRAINING = [("resnet18", 32, 2)]


class Missing(Exception):
    """A side that cannot run here and is left out."""


def run(command):
    """Seconds and peak bytes of a process that must succeed."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        child = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().strip()
    if child.returncode == NOT_INSTALLED:
        raise Missing(said.splitlines()[-1])
    if child.returncode != 0:
        sys.exit(f"bench_turns: {shlex.join(map(str, command))}: {said}")
    return seconds, usage.ru_maxrss * 1024


def find(name, place):
    """The program `name` at `place`: itself, or in a folder of Cargo's."""
    place = pathlib.Path(place)
    folders = ["", "examples", "release", "release/examples"]
    for path in [place, *(place / folder / name for folder in folders)]:
        if path.is_file():
            return path.resolve()
    sys.exit(f"bench_turns: no {name} at {place}")


def machine():
    """The processor, the sets of SIMD instructions in use, the commit and the date."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    info = dict(map(str.strip, line.split(":", 1)) for line in text.splitlines() if ":" in line)
    sets = {"avx2": "AVX2", "avx512f": "AVX-512"}
    simd = [name for flag, name in sets.items() if flag in info.get("flags", "").split()]
    git = ["git", "-C", str(SCRIPTS)]
    commit, changes = [
        subprocess.run([*git, *command], capture_output=True, text=True).stdout.strip()
        for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    return {
        "cpu": info.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "simd": simd,
        "commit": commit,
        "dirty": bool(changes),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def take_turns(row, sides, turns):
    """Runs each of `sides`, name → function, in turns; prints the row and returns its numbers."""
    runs = {name: [] for name in sides}
    for _ in range(turns):
        for name in list(runs):
            try:
                runs[name].append(sides[name]())
            except Missing as reason:
                print(f"{name} is left out: {reason}", file=sys.stderr)
                del runs[name]
    first = next(iter(sides))
    base = statistics.median(run["pairs_per_s"] for run in runs[first])
    result = {"row": row, "sides": []}
    for name, found in runs.items():
        rates = [run["pairs_per_s"] for run in found]
        low, median, high = min(rates), statistics.median(rates), max(rates)
        peak = max(run["peak_bytes"] for run in found)
        side = {"side": name, "median": median, "min": low, "max": high}
        side |= {"ratio_of_medians": base / median, "peak_bytes": peak, "runs": found}
        result["sides"].append(side)
        digits = 0 if median >= 100 else 2
        rates = f"{median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"
        size = found[0].get("bytes_a_pair")
        size = "–" if size is None else f"{size:,.0f}"
        ratio = "–" if name == first else f"{base / median:.2f}"
        print(f"| {row} | {name} | {rates} | {ratio} | {size} | {peak / 2**20:,.0f} |", flush=True)
    return result


def prepare(program, images, views, epochs, threads, work):
    """A run of scrl-prep, timed from outside as a user would."""
    folder = work / "shards"
    shutil.rmtree(folder, ignore_errors=True)
    command = [program, "--quiet", "--epochs", epochs, "--views", views, "--threads", threads]
    seconds, peak = run([*command, images, folder])
    done = [json.loads(path.read_text()) for path in folder.glob("epoch=*/_SUCCESS")]
    shards = [shard for epoch in done for shard in epoch["parts"]]
    pairs, written = (sum(shard[key] for shard in shards) for key in ("rows", "bytes"))
    numbers = {"pairs": pairs, "seconds": seconds, "pairs_per_s": pairs / seconds}
    return numbers | {"bytes_a_pair": written / pairs, "peak_bytes": peak}


def measured(command, work):
    """A run of a program that writes its own numbers to the file of --json."""
    path = work / "numbers.json"
    _, peak = run([*command, "--json", path])
    return json.loads(path.read_text()) | {"peak_bytes": peak}


def rows_of_prep(given, builds, work):
    """Name and sides of each row of bench_prep.sh."""
    files = [path for path in given.images.rglob("*") if path.is_file()]
    if not files:
        sys.exit(f"bench_turns: no images in {given.images}")
    # Fills the page cache.
    for path in files:
        path.read_bytes()
    threads = len(os.sched_getaffinity(0))
    kinds = [("webp", given.epochs)]
    if not given.smoke:
        kinds += [("webp", 1), ("jpeg", given.epochs)]
    kinds.append(("recipe", given.epochs if given.smoke else given.epochs * RECIPE_EPOCHS))
    for index, (views, epochs) in enumerate(dict.fromkeys(kinds)):
        sides = {
            name: lambda p=program: prepare(p, given.images, views, epochs, threads, work)
            for name, program in builds.items()
        }
        peers = PEERS if index == 0 and not given.smoke else []
        for peer in peers:
            command = [sys.executable, SCRIPTS / "bench_prep_peers.py", peer, given.images]
            command += ["--workers", threads, "--epochs", epochs]
            sides[f"{peer}, to a tensor"] = lambda c=command: measured(c, work)
        yield f"`--views {views} --epochs {epochs}`", sides


def rows_of_training(given, builds, work):
    """Name and sides of each row of bench_train.sh."""
    for arch, size, pairs in SMOKE_TRAINING if given.smoke else TRAINING:
        model = ["--arch", arch, "--size", size, "--batch-size", pairs, "--device", "cpu"]
        model += ["--precision", "f32", "--steps", 1 if given.smoke else given.steps]
        commands = {name: [program, *model] for name, program in builds.items()}
        if importlib.util.find_spec("torch") is None:
            print("PyTorch is left out: it is not installed", file=sys.stderr)
        elif not given.smoke:
            commands["PyTorch"] = [sys.executable, SCRIPTS / "bench_pytorch.py", *model]
        sides = {name: lambda c=command: measured(c, work) for name, command in commands.items()}
        yield f"{arch}, {size} px, {pairs} pairs", sides


def positive(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    prep, train = kinds.add_parser("prep"), kinds.add_parser("train")
    prep.add_argument("images", type=pathlib.Path, metavar="IMAGES")
    prep.add_argument("--epochs", type=positive, default=8, help="that share one decode (8)")
    train.add_argument("--steps", type=positive, default=5, help="steps of a run (5)")
    for kind in (prep, train):
        kind.add_argument("--turns", type=positive, default=3, help="runs of each side (3)")
        kind.add_argument("--bin", required=True, help="the folder of this build")
        kind.add_argument("--against", metavar="BUILD", help="an older build's folder or program")
        kind.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every run there")
        kind.add_argument("--smoke", action="store_true", help="one small turn, to test the script")
    return parser.parse_args()


def main():
    given = parse()
    turns = 1 if given.smoke else given.turns
    name = {"prep": "scrl-prep", "train": "bench_step"}[given.kind]
    builds = {name: find(name, given.bin)}
    if given.against:
        builds[f"{name}, older build"] = find(name, given.against)
    found = {"bench": given.kind, "turns": turns, **machine(), "rows": []}
    changed = " with changes" if found["dirty"] else ""
    print(
        f"{found['cores']} cores of {found['cpu']} ({', '.join(found['simd'])}), "
        f"{found['date'][:10]}, commit {found['commit'][:7]}{changed}\n\n"
        f"| | | pairs/s, median of {turns} (min–max) | ratio | bytes a pair | peak MiB |\n"
        "|---|---|---|---|---|---|"
    )
    rows = {"prep": rows_of_prep, "train": rows_of_training}[given.kind]
    with tempfile.TemporaryDirectory() as work:
        for row, sides in rows(given, builds, pathlib.Path(work)):
            found["rows"].append(take_turns(row, sides, turns))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
