#!/usr/bin/env python3
"""Trains on several processes, and compares with a single one.

    scripts/test_ranks.py --bin target/debug [--launcher mpirun] [--images DIR] [--kills 10 | --short]

Ranks are started as torchrun does it, without PyTorch; or by mpirun, for which the programs must be
built with --features mpi. Without --images, scenes are drawn. Checked: losses like a single
process's, the same bits twice, killed ranks, another number of ranks, an interrupted rank,
scrl-eval, and errors of one rank or of all.
"""
import argparse, json, os, random, shutil, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path

TRAIN = ("--device cpu --preset paper --arch resnet18 --hidden 64 --projection 32 --batch-size 12 "
         "--warmup-epochs 1 --log-every 1 --checkpoint-every 2").split()
STEPS = 6
# Of the first loss, and of those after it, whose weights differ already.
FIRST, LATER = 1e-6, 1e-3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", type=Path, required=True, help="folder of the programs")
    parser.add_argument("--launcher", choices=sorted(LAUNCHERS), default="torchrun")
    parser.add_argument("--images", type=Path, help="folder of images to train on")
    parser.add_argument("--kills", type=int, default=3, help="runs in which a rank is killed")
    parser.add_argument("--short", action="store_true", help="2 and 3 ranks, one kill, an interrupted rank")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    return parser.parse_args()


class Runs:
    def __init__(self, programs, folder, launcher):
        self.train, self.folder, self.launcher = programs / "scrl-train", folder, launcher

    def line(self, ranks, out, *options):
        command = [self.train, *TRAIN, *options, "--out", self.folder / out, self.folder / "shards"]
        return [*LAUNCHERS[self.launcher](ranks), *command] if ranks > 1 else command

    def run(self, ranks, out, *options, expected=0, steps=STEPS):
        """Runs to `steps`, and returns what was printed."""
        line = self.line(ranks, out, "--max-steps", str(steps), *options)
        done = subprocess.run(line, capture_output=True, text=True, timeout=300)
        if done.returncode != expected:
            fail(f"{ranks} ranks, {out}: exit code {done.returncode} instead of {expected}\n{done.stderr}")
        return done.stderr

    def losses(self, out):
        lines = (self.folder / out / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    def end(self, out, step=STEPS):
        return (self.folder / out / f"checkpoints/step-{step:08}.safetensors").read_bytes()


def mpirun(ranks):
    return ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"]


def torchrun(ranks):
    return [sys.executable, __file__, "launch", str(ranks)]


LAUNCHERS = {"mpirun": mpirun, "torchrun": torchrun}


def launch(ranks, command):
    """Starts ranks with torchrun's variables, and returns the highest exit code. Unlike torchrun it
    does not end ranks when another one has: they must do that by themselves."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        # The ranks use the port after torchrun's own.
        port = server.getsockname()[1] - 1
    shared = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in range(ranks):
        environment = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        processes.append(subprocess.Popen(command, env=os.environ | environment))
    return max(abs(process.wait()) for process in processes)


def fail(message):
    sys.exit(f"test_ranks: {message}")


def check(condition, message):
    if not condition:
        fail(message)


def ranks_of(folder):
    """The processes that train there, the first rank's first."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if line[0].endswith(b"scrl-train") and str(folder).encode() in line:
            names = (b"OMPI_COMM_WORLD_RANK=", b"RANK=")
            found.append((int([x for x in environment if x.startswith(names)][0].split(b"=")[1]), int(process.name)))
    return [process for _, process in sorted(found)]


def own_lines(text):
    """What the program itself printed about its end."""
    return [line for line in text.splitlines() if line.startswith("scrl-train")]


def compare(runs, sizes):
    runs.run(1, "alone")
    alone = runs.losses("alone")
    for ranks in sizes:
        runs.run(ranks, f"by-{ranks}")
        found = runs.losses(f"by-{ranks}")
        check(len(found) == STEPS, f"{ranks} ranks: {len(found)} steps")
        apart = [abs(a / b - 1) for a, b in zip(found, alone)]
        print(f"{ranks} ranks: losses differ by {apart[0]:.1e} in the first step, {max(apart):.1e} in {STEPS}")
        check(apart[0] <= FIRST and max(apart) <= LATER, f"{ranks} ranks: {found} {alone}")
    runs.run(3, "again")
    check(runs.end("again") == runs.end("by-3"), "a second run of 3 ranks has other bits")
    print("3 ranks twice: the same bits")


def resume(runs):
    for ranks, steps in ((2, 2), (4, 4), (1, 6)):
        runs.run(ranks, "changing", steps=steps)
    apart = [abs(a / b - 1) for a, b in zip(runs.losses("changing"), runs.losses("alone"), strict=True)]
    print(f"2, then 4, then 1 rank: losses differ by {max(apart):.1e}")
    check(max(apart) <= LATER, f"{apart}")


def kills(runs, count, rng):
    """Kills a random rank at a random moment, again and again, and lets the last run end."""
    start = time.monotonic()
    runs.run(2, "undisturbed")
    duration = time.monotonic() - start
    done = 0
    while done < count:
        shutil.rmtree(runs.folder / "killed", ignore_errors=True)
        for _ in range(2):
            line = runs.line(2, "killed", "--max-steps", str(STEPS))
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.2, duration))
            ranks = ranks_of(runs.folder / "killed")
            if len(ranks) == 2:
                os.kill(rng.choice(ranks), signal.SIGKILL)
                done += 1
            code = process.wait(timeout=60)
            check(len(ranks) < 2 or code != 0, "the run survived a killed rank")
            check(not ranks_of(runs.folder / "killed"), "a rank goes on alone")
        runs.run(2, "killed")
        check(runs.end("killed") == runs.end("undisturbed"), "a killed run ended with other bits")
        check(runs.losses("killed") == runs.losses("undisturbed"), "a killed run has other losses")
    print(f"{done} killed ranks: the same bits as undisturbed")


def interrupt(runs):
    line = runs.line(2, "stopped")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = runs.folder / "stopped/metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        check(process.poll() is None, "the run ended by itself")
        time.sleep(0.05)
    os.kill(ranks_of(runs.folder / "stopped")[1], signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    check(process.returncode == 130, f"interrupted: exit code {process.returncode}\n{printed}")
    check(len(own_lines(printed)) == 1, f"interrupted: {printed}")
    step = len(runs.losses("stopped"))
    check(runs.end("stopped", step), "no checkpoint")
    print(f"an interrupted rank: all stopped after step {step}, exit code 130")


def errors(runs):
    wrapper = runs.folder / "other.sh"
    rank = "${RANK:-$OMPI_COMM_WORLD_RANK}"
    wrapper.write_text(f'#!/bin/sh\nexec {runs.train} --ema 0.$(({rank} + 5)) "$@"\n')
    wrapper.chmod(0o755)
    line = runs.line(2, "different")
    line[line.index(runs.train)] = wrapper
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    lines = own_lines(done.stderr)
    check(done.returncode == 1 and len(lines) == 1, f"different options: {done.returncode} {done.stderr}")
    print(lines[0])

    for ranks, code, options in (
        (2, 1, ("--lr", "1e38")),
        (5, 2, ()),
        (2, 1, ("--resume", "none.safetensors")),
    ):
        lines = own_lines(runs.run(ranks, "refused", *options, expected=code))
        check(len(lines) == 1, f"{options}: {lines}")
        print(lines[0][:100])

    for part in (runs.folder / "shards").glob("epoch=*/part-*"):
        part.write_bytes(b"damaged")
    lines = own_lines(runs.run(2, "damaged", expected=1))
    check(len(lines) == 1 and "part-" in lines[0], f"damaged: {lines}")
    print(lines[0][:100])


def evaluate(runs, images):
    results = {}
    for ranks in (1, 3):
        out = runs.folder / f"eval-{ranks}"
        line = [runs.train.with_name("scrl-eval"), "linear", "--images", images, "--checkpoint", "random"]
        line += ["--arch", "resnet18", "--out", out, *"--size 32 --crops 2 --epochs 4".split()]
        done = subprocess.run([*(LAUNCHERS[runs.launcher](ranks) if ranks > 1 else []), *line], capture_output=True, text=True, timeout=300)
        check(done.returncode == 0, f"scrl-eval on {ranks} ranks: {done.stderr}")
        features = sorted((out / "features").iterdir())
        results[ranks] = json.loads((out / "results.json").read_text())["top1"], [(f.name, f.read_bytes()) for f in features]
    check(results[1] == results[3], f"scrl-eval: {results[1][0]} on one rank, {results[3][0]} on three")
    print(f"scrl-eval on 3 ranks: the same features, top-1 {results[3][0]}")


def main():
    if sys.argv[1:2] == ["launch"]:
        sys.exit(launch(int(sys.argv[2]), sys.argv[3:]))
    options = arguments()
    programs = options.bin.resolve()
    if os.geteuid() == 0:
        os.environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # In a container one process may not read another's memory.
    os.environ["OMPI_MCA_btl_vader_single_copy_mechanism"] = "none"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        images = options.images
        if images is None:
            scenes = programs / "examples/make_scenes"
            line = [scenes, folder / "scenes", "--single", "--images", "48", "--val", "0", "--size", "128x96"]
            subprocess.run(line, check=True, capture_output=True)
            images = folder / "scenes/train2017"
        prep = "--quiet --epochs 3 --size 64 --min-box 12 --rows-per-shard 10".split()
        subprocess.run([programs / "scrl-prep", *prep, images, folder / "shards"], check=True)
        runs = Runs(programs, folder, options.launcher)
        compare(runs, (2, 3) if options.short else (2, 3, 4))
        kills(runs, 1 if options.short else options.kills, random.Random(options.seed))
        interrupt(runs)
        if not options.short:
            resume(runs)
            evaluate(runs, images)
            errors(runs)


if __name__ == "__main__":
    main()
