#!/usr/bin/env python3
"""Repeat the first steps of a run in PyTorch and compare them with what scrl-train recorded.

    replay_in_pytorch.py SHARDS RUN [--steps 3] [--float64]

SHARDS is a folder that scrl-prep wrote (views with pixels, not recipes), RUN the `--out` folder of
a single-process float32 run of scrl-train on it:

    scrl-train --device cpu --max-steps 3 --log-every 1 --checkpoint-every 3 --out RUN SHARDS

From RUN/checkpoints/step-00000000.safetensors and the rows of SHARDS in folder order, the same
steps are computed with torchvision's networks (scrl_torch.py). Compared are

  - lr and ema of RUN/metrics.jsonl with their formulas              (1e-6 relative),
  - the loss of every logged step                                    (2e-3 relative),
  - in each later checkpoint up to --steps, the movement of every tensor since step 0: weights of
    both networks and the predictor, BatchNorm running statistics, and the classifier of the online
    evaluation where there is one                                    (5 % of its L2 norm),
  - the momentum, where the checkpoint has it                        (5 % of its L2 norm).

With --float64 the steps are computed in float64, with PyTorch's own float32 beside them: its
distance from float64 is printed before the run's. A deep network at a high learning rate is
chaotic, since rounding decides which ReLUs pass. Where PyTorch does not agree with itself, 5 %
cannot be met.

A movement is a difference of float32 numbers, so rounding of the tensor itself is allowed for on
top of the 5 %. Where that allowance exceeds 5 % of the movement (a first warm-up step moves a
weight by less than its last bit), the tensor is counted as too close to rounding; its momentum is
still compared.

Exit code 0: all agree; 1: something does not; 2: the folders cannot be replayed.
"""
import argparse
import collections
import io
import itertools
import json
import math
import pathlib
import sys
import tomllib

import numpy
import pyarrow.parquet
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from scrl_torch import (
    UNKNOWN,
    MicroBatch,
    Networks,
    Trainer,
    ema_tau,
    learning_rate,
    normalize,
    without_gradient,
)

SCHEDULE_TOLERANCE = 1e-6
LOSS_TOLERANCE = 2e-3
MOVEMENT_TOLERANCE = 0.05
FLOAT32_ULP = 2.0**-23
# A bias without a gradient has rounding noise below this instead.
GRADIENT_NOISE = 1e-6
FAILURES_SHOWN = 10


class CannotReplay(Exception):
    pass


# ---- Shards --------------------------------------------------------------------------------------


def pixels(view):
    if view["image"] is None:
        raise CannotReplay("these shards are recipes; make them with --views webp or --views jpeg")
    with Image.open(io.BytesIO(view["image"]["bytes"])) as image:
        return torch.from_numpy(numpy.array(image.convert("RGB")))


def epochs_of(shards):
    """The shards of each epoch, in folder order."""
    folders = sorted(p for p in shards.glob("epoch=*") if p.is_dir())
    if not folders:
        raise CannotReplay(f"{shards}: no epoch=… folders")
    return [sorted(folder.glob("part-*.parquet")) for folder in folders]


def rows_of(epoch):
    for shard in epoch:
        file = pyarrow.parquet.ParquetFile(shard)
        columns = ["label", "view1", "view2", "boxes"]
        for batch in file.iter_batches(batch_size=32, columns=columns):
            yield from batch.to_pylist()


def row_count(epoch):
    return sum(pyarrow.parquet.ParquetFile(shard).metadata.num_rows for shard in epoch)


def classes_by_label(shards):
    """Label -> its rank among all labels."""
    table = pyarrow.parquet.read_table(shards / "sources.parquet", columns=["label"])
    labels = sorted(set(table["label"].to_pylist()) - {None})
    return {label: number for number, label in enumerate(labels)}


def micro_batch(rows, method, labels):
    views = torch.stack([pixels(row[view]) for view in ("view1", "view2") for row in rows])
    rois = None
    if method == "scrl":
        rois = [
            [half * len(rows) + index, *box[key]]
            for half, key in enumerate(("view1", "view2"))
            for index, row in enumerate(rows)
            for box in row["boxes"]
        ]
        if not rois:
            raise CannotReplay("a batch without a single box has no loss")
        rois = torch.tensor(rois)
    classes = torch.tensor([labels.get(row["label"], UNKNOWN) for row in rows])
    return MicroBatch(normalize(views), rois, classes)


def steps_of(epochs, batch_size, accumulate, method, labels, held_out):
    """The micro-batches of each step; the rows left over at the end of an epoch are dropped. Of
    epoch 0, the last `held_out` rows are as well, and the first batches come again instead."""
    for number, epoch in enumerate(epochs):
        steps = row_count(epoch) // (batch_size * accumulate)
        dropped = row_count(epoch) - steps * batch_size * accumulate
        again = max(held_out - dropped, 0) if number == 0 else 0
        read = steps * batch_size * accumulate - again
        rows = itertools.chain(
            itertools.islice(rows_of(epoch), read), itertools.islice(rows_of(epoch), again)
        )
        for _ in range(steps):
            batches = [[next(rows) for _ in range(batch_size)] for _ in range(accumulate)]
            yield number, [micro_batch(batch, method, labels) for batch in batches]


# ---- Comparison ----------------------------------------------------------------------------------


def read_metrics(path):
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {line["step"]: line for line in lines}


def relative(a, b):
    return abs(a - b) / max(abs(b), 1e-300)


Difference = collections.namedtuple("Difference", "name error norm allowance")


def difference(name, reference, other, allowance):
    reference, other = reference.double(), other.double()
    return Difference(name, (other - reference).norm().item(), reference.norm().item(), allowance)


def movements(initial, reference, other, steps):
    """The difference between the movements of the tensors of two sides since `initial`."""
    differences = []
    for name, tensor in reference.items():
        start = initial[name].double()
        # Each side rounds at most twice a step, by 0.29 units in the last place (RMS).
        allowance = 2 * 0.29 * math.sqrt(steps) * FLOAT32_ULP * start.norm().item()
        if without_gradient(name):
            allowance += GRADIENT_NOISE * steps * math.sqrt(start.numel())
        ours, theirs = tensor.double() - start, other[name].double() - start
        differences.append(difference(name, ours, theirs, allowance))
    return differences


def momenta(reference, other):
    differences = []
    for name, tensor in reference.items():
        if name in other:
            noise = GRADIENT_NOISE * math.sqrt(tensor.numel()) if without_gradient(name) else 0.0
            differences.append(difference(name, tensor, other[name], noise))
    return differences


def report(kind, differences, judge=True):
    """Prints the largest differences; returns whether all are within the tolerance."""
    judged = [d for d in differences if MOVEMENT_TOLERANCE * d.norm > d.allowance]
    failed = [d for d in differences if not d.error <= MOVEMENT_TOLERANCE * d.norm + d.allowance]
    near = len(differences) - len(judged)
    print(f"  {kind}: {len(differences)} tensors, {near} too close to rounding to judge")
    for d in sorted(judged, key=lambda d: d.error / d.norm, reverse=True)[:5]:
        print(f"    {100 * d.error / d.norm:8.3f} %  of {d.norm:.3e}  {d.name}")
    if not judge:
        return True
    for d in failed[:FAILURES_SHOWN]:
        allowed = f"{d.allowance:.1e} allowed for rounding"
        print(f"    FAIL {d.name}: off by {d.error:.3e} of {d.norm:.3e}, {allowed}")
    if len(failed) > FAILURES_SHOWN:
        print(f"    FAIL and {len(failed) - FAILURES_SHOWN} more")
    return not failed


def compare_checkpoint(path, trainer, initial, step):
    theirs = load_file(path)
    ours = trainer.networks.tensors()
    missing = sorted(ours.keys() - theirs.keys())
    if missing:
        print(f"  FAIL {path.name}: {len(missing)} tensors are missing, the first is {missing[0]}")
        return False
    print(f"{path.name}, compared with the replay after step {step}:")
    ok = report("movement since step 0", movements(initial, ours, theirs, step))
    prefix = "momentum."
    theirs = {n.removeprefix(prefix): t for n, t in theirs.items() if n.startswith(prefix)}
    if theirs:
        unknown = sorted(theirs.keys() - trainer.velocity.keys() - ours.keys())
        compared = momenta(trainer.velocity, theirs)
        ok &= report("momentum", compared)
        if not compared:
            print(f"  FAIL no momentum has a name that is known here; the first is {unknown[0]}")
            ok = False
    return ok


def replay(shards, run, steps, batch_size, float64):
    config = tomllib.loads((run / "config.toml").read_text())
    metrics = read_metrics(run / "metrics.jsonl")
    initial = load_file(run / "checkpoints" / "step-00000000.safetensors")
    method = config["method"]
    batch_size = batch_size or config["batch-size"]
    accumulate = config.get("accumulate", 1)
    if config.get("precision", "f32") == "bf16":
        print("warning: a bf16 run; expect it to miss the float32 tolerances", file=sys.stderr)

    hidden, _ = initial["online.projector.0.weight"].shape
    projection, _ = initial["online.projector.3.weight"].shape
    classes = len(initial["classifier.bias"]) if "classifier.bias" in initial else None

    def trainer_of(dtype):
        networks = Networks(config["arch"], hidden, projection, classes).to(dtype)
        networks.load(initial)
        return Trainer(networks, config["weight-decay"], config.get("trust"))

    trainer = trainer_of(torch.float64 if float64 else torch.float32)
    yardstick = trainer_of(torch.float32) if float64 else None

    epochs = epochs_of(shards)
    steps_per_epoch = row_count(epochs[0]) // (batch_size * accumulate)
    if not steps_per_epoch:
        raise CannotReplay(f"{shards}: an epoch has fewer rows than a batch")
    total_steps = config["epochs"] * steps_per_epoch
    warmup_steps = config["warmup-epochs"] * steps_per_epoch
    peak = config["lr"] * batch_size * accumulate / 256

    ok, done, compared = True, 0, 0
    print(
        f"{config['arch']} {method}, {batch_size} x {accumulate} pairs, "
        f"{steps_per_epoch} steps an epoch, {config['epochs']} epochs"
    )
    titles = ("lr", 11), ("tau", 10), ("loss here", 11), ("recorded", 11), ("relative", 9)
    print(f"{'step':>5} {'boxes':>6}", *(f"{title:>{width}}" for title, width in titles))
    labels = classes_by_label(shards) if classes else {}
    with safe_open(run / "checkpoints" / "step-00000000.safetensors", "pt") as file:
        held_out = int(file.metadata().get("held_out", 0))
    all_steps = steps_of(epochs, batch_size, accumulate, method, labels, held_out)
    for step, (epoch, micro_batches) in enumerate(all_steps, start=1):
        if step > steps:
            break
        lr = learning_rate(step, peak, warmup_steps, total_steps)
        tau = ema_tau(step, config["ema"], total_steps)
        recorded, faults = metrics.get(step), []
        if recorded is not None:
            for name, formula in (("lr", lr), ("ema", tau)):
                if relative(recorded[name], formula) > SCHEDULE_TOLERANCE:
                    faults.append(f"{name} is {recorded[name]!r}, its formula gives {formula!r}")
            lr, tau = recorded["lr"], recorded["ema"]
            if recorded["epoch"] != epoch:
                faults.append(f"epoch is {recorded['epoch']}, in the shards it is {epoch}")
        if yardstick:
            yardstick.step(micro_batches, lr, tau)
            micro_batches = [m._replace(views=m.views.double()) for m in micro_batches]
        loss = trainer.step(micro_batches, lr, tau)
        boxes = sum(0 if m.rois is None else len(m.rois) // 2 for m in micro_batches)
        line = f"{step:5} {boxes:6} {lr:11.4e} {tau:10.7f} {loss:11.7f}"
        if recorded is None:
            print(f"{line} {'-':>11}")
        else:
            error = relative(recorded["loss"], loss)
            if not error <= LOSS_TOLERANCE:
                faults.append(f"the loss differs by {error:.2e}, over {LOSS_TOLERANCE:.0e}")
            print(f"{line} {recorded['loss']:11.7f} {error:9.1e} {'FAIL' if faults else 'PASS'}")
            compared += 1
        for fault in faults:
            print(f"      {fault}")
        ok &= not faults
        done = step
        checkpoint = run / "checkpoints" / f"step-{step:08}.safetensors"
        if checkpoint.exists():
            if yardstick:
                print(f"PyTorch's float32, compared with its float64 after step {step}:")
                ours, float32 = trainer.networks.tensors(), yardstick.networks.tensors()
                moved = movements(initial, ours, float32, step)
                report("movement since step 0", moved, judge=False)
                report("momentum", momenta(trainer.velocity, yardstick.velocity), judge=False)
            ok &= compare_checkpoint(checkpoint, trainer, initial, step)
            compared += 1
    if done < steps:
        print(f"only {done} of {steps} steps fit the shards")
        ok = False
    if not compared:
        raise CannotReplay(f"{run}: no recorded step or checkpoint among the first {steps}")
    return ok


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="pairs per micro-step (the run's)")
    parser.add_argument("--float64", action="store_true", help="replay in float64 beside float32")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        ok = replay(args.shards, args.run, args.steps, args.batch_size, args.float64)
    except (CannotReplay, OSError, KeyError, ValueError) as error:
        print(f"replay_in_pytorch: {error}", file=sys.stderr)
        return 2
    print("PASS" if ok else "FAIL")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
