#!/usr/bin/env python3
"""Train a few steps again in PyTorch and compare them with what scrl-train recorded.

    replay_in_pytorch.py SHARDS RUN [--steps 3] [--float64]

SHARDS is a folder that scrl-prep wrote (views with pixels, not recipes), RUN the `--out` folder of a single-process
float32 run of scrl-train on it:

    scrl-train --device cpu --max-steps 3 --log-every 1 --checkpoint-every 3 --out RUN SHARDS

From RUN/checkpoints/step-00000000.safetensors and the rows of SHARDS in folder order this program computes the same
steps with torchvision's networks and checks

  - lr and ema of RUN/metrics.jsonl against their formulas           (1e-6 relative),
  - the loss of every logged step                                    (2e-3 relative),
  - in each later checkpoint up to --steps, how every tensor moved since step 0: weights of both networks and the
    predictor, BatchNorm running statistics, and the classifier of the online evaluation where there is one
                                                                     (5 % of the movement's L2 norm),
  - and the momentum, where the checkpoint holds it                  (5 % of its L2 norm).

With --float64 the steps are computed in float64, and PyTorch's own float32 beside them: its distance from float64 is
printed before the run's. A deep network at a high learning rate is chaotic, because rounding decides which ReLUs pass; where
PyTorch does not agree with itself, 5 % is no fair demand.

A movement is a difference of float32 numbers, so rounding of the tensor itself is allowed for on top of the 5 %; where
that allowance exceeds the movement (a first warm-up step moves a weight by less than its last bit) the movement proves
nothing and the tensor is counted as such. The momentum then still does.

Exit code 0: all agree; 1: something does not; 2: the folders cannot be replayed.
"""
import argparse
import collections
import io
import json
import math
import pathlib
import sys
import tomllib

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
FEATURE_STRIDE = 32
TRUST = 0.001
MOMENTUM = 0.9

SCHEDULE_TOLERANCE = 1e-6
LOSS_TOLERANCE = 2e-3
MOVEMENT_TOLERANCE = 0.05
FLOAT32_ULP = 2.0**-23
# A Linear's bias in front of a BatchNorm has no gradient: what is computed for it is rounding noise, below this.
GRADIENT_NOISE = 1e-6
FAILURES_SHOWN = 10


# ---- The step ----------------------------------------------------------------------------------------------------


def head(inputs, hidden, outputs):
    """Projector and predictor: Linear, BatchNorm, ReLU, Linear without bias."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs, bias=False)
    )


class Encoder(nn.Module):
    """f and g: a ResNet up to its last feature map, pooling (boxes or the whole map), the projector."""

    def __init__(self, arch, hidden, projection):
        super().__init__()
        resnet = getattr(torchvision.models, arch)(weights=None)
        channels = resnet.fc.in_features
        resnet.fc = nn.Identity()
        self.backbone = resnet
        self.projector = head(channels, hidden, projection)

    def feature_map(self, views):
        r = self.backbone
        stem = r.maxpool(r.relu(r.bn1(r.conv1(views))))
        return r.layer4(r.layer3(r.layer2(r.layer1(stem))))

    def forward(self, views, rois):
        """views [2B, 3, S, S]; rois [2K, 5] (view, x0, y0, x1, y1), or None for the average over the map.

        Returns the projections, and what a classifier may look at: the average over the map, detached."""
        features = self.feature_map(views)
        if rois is None:
            pooled = features.mean(dim=(2, 3))
        else:
            pooled = torchvision.ops.roi_align(
                features, rois.to(features.dtype), (1, 1), 1.0 / FEATURE_STRIDE, sampling_ratio=-1, aligned=False
            ).flatten(1)
        return self.projector(pooled), features.mean(dim=(2, 3)).detach()


class Networks(nn.Module):
    """All that trains. The keys of its state dict are the names of a checkpoint's tensors."""

    def __init__(self, arch, hidden, projection, classes=None):
        super().__init__()
        self.online = Encoder(arch, hidden, projection)
        self.target = Encoder(arch, hidden, projection)
        self.predictor = head(projection, hidden, projection)
        if classes:
            channels = self.online.projector[0].in_features
            self.classifier = nn.Linear(channels, classes)
        self.target.requires_grad_(False)
        self.train()

    def tensors(self):
        """Name -> tensor, live, without PyTorch's counters of batches."""
        return {k: v for k, v in self.state_dict().items() if not k.endswith("num_batches_tracked")}

    def load(self, tensors):
        wanted = self.tensors()
        missing = sorted(wanted.keys() - tensors.keys())
        if missing:
            raise KeyError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
        with torch.no_grad():
            for name, tensor in wanted.items():
                if tensor.shape != tensors[name].shape:
                    raise ValueError(f"{name} is {list(tensors[name].shape)}, not {list(tensor.shape)}")
                tensor.copy_(tensors[name])


def normalise(views, dtype=torch.float32):
    """uint8 [N, S, S, 3] -> [N, 3, S, S]."""
    x = views.to(dtype) / 255
    return ((x - torch.tensor(MEAN, dtype=dtype)) / torch.tensor(STD, dtype=dtype)).permute(0, 3, 1, 2).contiguous()


def distance(a, b):
    """2 - 2 cos, row by row."""
    return 2 - 2 * F.cosine_similarity(a, b, dim=1, eps=1e-12)


def lars_update(parameter, gradient, velocity, lr, weight_decay):
    """Changes `parameter` and `velocity` in place."""
    d = gradient
    if parameter.ndim > 1:
        weight_norm, gradient_norm = parameter.norm(), gradient.norm()
        d = gradient + weight_decay * parameter
        if weight_norm > 0 and gradient_norm > 0:
            d = d * (TRUST * weight_norm / (gradient_norm + weight_decay * weight_norm + 1e-8))
    velocity.mul_(MOMENTUM).add_(d)
    parameter.sub_(lr * velocity)


def learning_rate(t, peak, warmup_steps, total_steps):
    """The learning rate of step t = 1, 2, …"""
    if t <= warmup_steps:
        return peak * t / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (t - warmup_steps) / (total_steps - warmup_steps)))


def target_decay(t, initial, total_steps):
    """tau after step t = 1, 2, …"""
    return 1 - (1 - initial) * 0.5 * (math.cos(math.pi * (t - 1) / total_steps) + 1)


# views: normalised [2B, 3, S, S], all first views, then all second. rois: [2K, 5], the K boxes in the first views,
# then their counterparts in the same order; None compares whole views (BYOL). classes: [B], UNKNOWN where there is no
# label; needed by networks with a classifier alone.
MicroBatch = collections.namedtuple("MicroBatch", "views rois classes", defaults=[None])
UNKNOWN = -1


class Trainer:
    def __init__(self, networks, weight_decay):
        self.networks = networks
        self.weight_decay = weight_decay
        # Of the last step's online evaluation: its loss, and the views whose class it named.
        self.online_loss, self.right = 0.0, 0
        self.velocity = {n: torch.zeros_like(p) for n, p in networks.named_parameters() if p.requires_grad}

    def step(self, micro_batches, lr, tau):
        """One optimiser step; returns the loss before it."""
        net = self.networks
        pairs = sum((len(m.views) if m.rois is None else len(m.rois)) // 2 for m in micro_batches)
        net.zero_grad(set_to_none=True)
        total = 0.0
        self.online_loss, self.right = 0.0, 0
        for views, rois, classes in micro_batches:
            # z before q: a network changes nothing but its own running statistics, so the order is free.
            with torch.no_grad():
                z1, z2 = net.target(views, rois)[0].chunk(2)
            projections, features = net.online(views, rois)
            q1, q2 = net.predictor(projections).chunk(2)
            loss = (distance(q1, z2) + distance(q2, z1)).sum() / pairs
            loss.backward()
            total += loss.item()
            if hasattr(net, "classifier"):
                self.watch(features, classes.repeat(2), micro_batches)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if parameter.grad is not None:
                    lars_update(parameter, parameter.grad, self.velocity[name], lr, self.weight_decay)
            for slow, fast in zip(net.target.parameters(), net.online.parameters(), strict=True):
                slow.mul_(tau).add_(fast, alpha=1 - tau)
        return total

    def watch(self, features, classes, micro_batches):
        """The classifier's gradients; features and classes are those of one micro-batch's views."""
        labelled = 2 * sum((m.classes != UNKNOWN).sum().item() for m in micro_batches)
        if not labelled:
            return
        logits = self.networks.classifier(features)
        loss = F.cross_entropy(logits, classes, ignore_index=UNKNOWN, reduction="sum") / labelled
        loss.backward()
        self.online_loss += loss.item()
        self.right += (logits.argmax(1) == classes).sum().item()


# ---- The shards and the run --------------------------------------------------------------------------------------


class CannotReplay(Exception):
    pass


def pixels(view):
    from PIL import Image
    import numpy

    if view["image"] is None:
        raise CannotReplay("these shards hold recipes; make them with --views webp or --views jpeg")
    with Image.open(io.BytesIO(view["image"]["bytes"])) as image:
        return torch.from_numpy(numpy.array(image.convert("RGB")))


def epochs_of(shards):
    """The parts of each epoch, in folder order."""
    folders = sorted(p for p in shards.glob("epoch=*") if p.is_dir())
    if not folders:
        raise CannotReplay(f"{shards}: no epoch=… folders")
    return [sorted(folder.glob("part-*.parquet")) for folder in folders]


def rows_of(parts):
    import pyarrow.parquet

    for part in parts:
        file = pyarrow.parquet.ParquetFile(part)
        for batch in file.iter_batches(batch_size=32, columns=["label", "view1", "view2", "boxes"]):
            yield from batch.to_pylist()


def row_count(parts):
    import pyarrow.parquet

    return sum(pyarrow.parquet.ParquetFile(part).metadata.num_rows for part in parts)


def labels_of(shards):
    """Label -> class: its place among all labels."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(shards / "sources.parquet", columns=["label"])
    labels = sorted(set(table["label"].to_pylist()) - {None})
    return {label: number for number, label in enumerate(labels)}


def micro_batch(rows, method, labels):
    views = torch.stack([pixels(row["view1"]) for row in rows] + [pixels(row["view2"]) for row in rows])
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
    return MicroBatch(normalise(views), rois, classes)


def steps_of(epochs, batch_size, accumulate, method, labels):
    """The micro-batches of each optimiser step; what is left over at the end of an epoch is dropped."""
    for epoch, parts in enumerate(epochs):
        rows = rows_of(parts)
        for _ in range(row_count(parts) // (batch_size * accumulate)):
            micro_batches = [[next(rows) for _ in range(batch_size)] for _ in range(accumulate)]
            yield epoch, [micro_batch(rows_of_it, method, labels) for rows_of_it in micro_batches]


def read_metrics(path):
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {line["step"]: line for line in lines}


def relative(a, b):
    return abs(a - b) / max(abs(b), 1e-300)


Difference = collections.namedtuple("Difference", "name error norm allowance")


def has_no_gradient(name):
    return name in ("online.projector.0.bias", "predictor.0.bias")


def difference(name, reference, other, allowance):
    reference, other = reference.double(), other.double()
    return Difference(name, (other - reference).norm().item(), reference.norm().item(), allowance)


def movements(initial, reference, other, steps):
    """The difference between how the tensors of two sides moved away from `initial`."""
    differences = []
    for name, tensor in reference.items():
        start = initial[name].double()
        # Each side rounds at most twice a step, by 0.29 units in the last place (root mean square).
        allowance = 2 * 0.29 * math.sqrt(steps) * FLOAT32_ULP * start.norm().item()
        if has_no_gradient(name):
            allowance += GRADIENT_NOISE * steps * math.sqrt(start.numel())
        differences.append(difference(name, tensor.double() - start, other[name].double() - start, allowance))
    return differences


def momenta(reference, other):
    return [
        difference(name, v, other[name], GRADIENT_NOISE * math.sqrt(v.numel()) if has_no_gradient(name) else 0.0)
        for name, v in reference.items()
        if name in other
    ]


def report(kind, differences, judge=True):
    """Prints the worst, returns whether all are in tolerance."""
    proving = [d for d in differences if MOVEMENT_TOLERANCE * d.norm > d.allowance]
    failed = [d for d in differences if not d.error <= MOVEMENT_TOLERANCE * d.norm + d.allowance]
    print(f"  {kind}: {len(differences)} tensors, {len(differences) - len(proving)} too near rounding to judge")
    for d in sorted(proving, key=lambda d: d.error / d.norm, reverse=True)[:5]:
        print(f"    {100 * d.error / d.norm:8.3f} %  of {d.norm:.3e}  {d.name}")
    if not judge:
        return True
    for d in failed[:FAILURES_SHOWN]:
        print(f"    FAIL {d.name}: off by {d.error:.3e} of {d.norm:.3e}, rounding explains {d.allowance:.1e}")
    if len(failed) > FAILURES_SHOWN:
        print(f"    FAIL and {len(failed) - FAILURES_SHOWN} more")
    return not failed


def compare_checkpoint(path, trainer, initial, step):
    from safetensors.torch import load_file

    theirs = load_file(path)
    ours = trainer.networks.tensors()
    missing = sorted(ours.keys() - theirs.keys())
    if missing:
        print(f"  FAIL {path.name}: {len(missing)} tensors are missing, the first is {missing[0]}")
        return False
    print(f"{path.name}, against the replay after step {step}:")
    ok = report("movement since step 0", movements(initial, ours, theirs, step))
    prefix = "momentum."
    theirs = {name.removeprefix(prefix): tensor for name, tensor in theirs.items() if name.startswith(prefix)}
    if theirs:
        unknown = sorted(theirs.keys() - trainer.velocity.keys() - ours.keys())
        compared = momenta(trainer.velocity, theirs)
        ok &= report("momentum", compared)
        if not compared:
            print(f"  FAIL no momentum has a name that is known here; the first is {unknown[0]}")
            ok = False
    return ok


def replay(shards, run, steps, batch_size, float64):
    from safetensors.torch import load_file

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
        return Trainer(networks, config["weight-decay"])

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
    batch = f"{batch_size} x {accumulate} pairs"
    print(f"{config['arch']} {method}, {batch}, {steps_per_epoch} steps an epoch, {config['epochs']} epochs")
    print(f"{'step':>5} {'boxes':>6} {'lr':>11} {'tau':>10} {'loss here':>11} {'recorded':>11} {'relative':>9}")
    labels = labels_of(shards) if classes else {}
    all_steps = steps_of(epochs, batch_size, accumulate, method, labels)
    for step, (epoch, micro_batches) in enumerate(all_steps, start=1):
        if step > steps:
            break
        lr = learning_rate(step, peak, warmup_steps, total_steps)
        tau = target_decay(step, config["ema"], total_steps)
        recorded, faults = metrics.get(step), []
        if recorded is not None:
            for name, formula in (("lr", lr), ("ema", tau)):
                if relative(recorded[name], formula) > SCHEDULE_TOLERANCE:
                    faults.append(f"{name} is recorded as {recorded[name]!r}, the formula gives {formula!r}")
            lr, tau = recorded["lr"], recorded["ema"]
            if recorded["epoch"] != epoch:
                faults.append(f"epoch is recorded as {recorded['epoch']}, the shards say {epoch}")
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
                faults.append(f"the loss differs by {error:.2e}, {LOSS_TOLERANCE:.0e} is allowed")
            print(f"{line} {recorded['loss']:11.7f} {error:9.1e} {'FAIL' if faults else 'PASS'}")
            compared += 1
        for fault in faults:
            print(f"      {fault}")
        ok &= not faults
        done = step
        checkpoint = run / "checkpoints" / f"step-{step:08}.safetensors"
        if checkpoint.exists():
            if yardstick:
                print(f"PyTorch's float32, against its float64 after step {step}:")
                ours, float32 = trainer.networks.tensors(), yardstick.networks.tensors()
                report("movement since step 0", movements(initial, ours, float32, step), judge=False)
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
    parser = argparse.ArgumentParser(description="Compare a run of scrl-train with the same steps in PyTorch.")
    parser.add_argument("shards", type=pathlib.Path)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="pairs per micro-step (default: what RUN/config.toml says)")
    parser.add_argument("--float64", action="store_true", help="replay in float64, with float32 beside it to judge by")
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
