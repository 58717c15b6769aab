#!/usr/bin/env python3
"""Search settings of scrl-train for images with boxes: short pretrainings, compared on box features.

    search_recipe.py --bin target/release --out search TRAIN TRAIN.json VAL VAL.json &
    echo '{"name": "lr-0.1", "train": "--preset small --lr 0.1"}' >>search/queue.jsonl

A trial is a line of OUT/queue.jsonl with a name, and what differs from TRIAL below: the method, the
options of scrl-prep and scrl-train, seed, and epochs. Workers take them in turn, one thread each, at
the lowest priority: start the command once for each core, and again to resume. OUT/results.jsonl
receives for each trial

    top1          of the boxes in VAL, by a linear layer fitted as by scrl-eval roi, but without
                  mirrored images: in percent
    cv, cv_ridge  the same of the boxes in TRAIN, in five-fold cross-validation over the images: of
                  that layer, and of ridge regression. More boxes, so less noise; and the pretraining
                  saw these images, as it did those of every other trial
    rank          effective rank of the features: the exponential of the entropy of the squared
                  singular values of the centered features

Needs PyTorch, torchvision, NumPy, Pillow and safetensors.
"""
import argparse, fcntl, hashlib, json, math, os, subprocess, time
from pathlib import Path

import numpy, torch, torchvision
from PIL import Image
from safetensors.torch import load_file

TRIAL = {"method": "scrl", "seed": 1, "epochs": 4, "prep": "--size 64 --min-box 16",
         "train": "--preset small --hidden 512 --projection 128 --batch-size 32"}
SIDE, FOLDS = 128, 5
# Images whose batches set the running statistics of batch norm.
STATISTICS = 800


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", type=Path, required=True, help="folder of the programs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("sources", type=Path, nargs=4, metavar=("TRAIN", "TRAIN.json", "VAL", "VAL.json"))
    parser.add_argument("--wait", action="store_true", help="for more trials, instead of ending")
    return parser.parse_args()


class Boxes:
    """Images [N, 3, SIDE, SIDE], RoIs [R, 5] and classes [R] of a folder with boxes."""

    def __init__(self, folder, annotations):
        found = json.loads(annotations.read_text())
        classes = {number: i for i, number in enumerate(sorted(c["id"] for c in found["categories"]))}
        number = {image["id"]: n for n, image in enumerate(found["images"])}
        pixels, scale = [], []
        for image in found["images"]:
            opened = Image.open(folder / image["file_name"]).convert("RGB")
            scale.append((SIDE / opened.width, SIDE / opened.height))
            pixels.append(numpy.asarray(opened.resize((SIDE, SIDE), Image.BILINEAR)))
        self.pixels = torch.from_numpy(numpy.stack(pixels)).permute(0, 3, 1, 2)
        rows = []
        for box in sorted(found["annotations"], key=lambda box: number[box["image_id"]]):
            n, (x, y, width, height) = number[box["image_id"]], box["bbox"]
            sx, sy = scale[n]
            rows.append((n, x * sx, y * sy, (x + width) * sx, (y + height) * sy, classes[box["category_id"]]))
        rows = torch.tensor(rows)
        self.rois, self.classes = rows[:, :5].contiguous(), rows[:, 5].long()

    def inputs(self, indices):
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        return (self.pixels[indices].float() / 255 - mean) / std


@torch.inference_mode()
def features(weights, train, val):
    """The features of the boxes of both."""
    resnet = torchvision.models.resnet18()
    if weights:
        resnet.load_state_dict(load_file(weights), strict=False)
    backbone = torch.nn.Sequential(*list(resnet.children())[:-2])
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    chosen = torch.randperm(len(train.pixels), generator=torch.Generator().manual_seed(0))
    for batch in chosen[:STATISTICS].split(16):
        backbone(train.inputs(batch))
    backbone.eval()
    found = []
    for boxes in (train, val):
        parts = []
        for batch in torch.arange(len(boxes.pixels)).split(32):
            rois = boxes.rois[(boxes.rois[:, 0] >= batch[0]) & (boxes.rois[:, 0] <= batch[-1])].clone()
            rois[:, 0] -= batch[0]
            parts.append(torchvision.ops.roi_align(backbone(boxes.inputs(batch)), rois, 1, 1 / 32))
        found.append(torch.cat(parts).flatten(1))
    return found


@torch.inference_mode()
def linear_layer(x, y, classes, epochs=80, warmup=5, lr=0.1, batch=512):
    """Weights [C, D] and biases [C]: SGD with Nesterov's momentum of 0.9, half a cosine."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(classes, x.shape[1], generator=generator) * 0.01, torch.zeros(classes)]
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    steps, step = math.ceil(len(x) / batch), 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(batch):
            errors = (x[chosen] @ parameters[0].T + parameters[1]).softmax(1)
            errors[torch.arange(len(chosen)), y[chosen]] -= 1
            errors /= len(chosen)
            done = (step - warmup * steps) / ((epochs - warmup) * steps)
            rate = lr * (step / (warmup * steps) if done < 0 else (1 + math.cos(math.pi * done)) / 2)
            for parameter, velocity, slope in zip(parameters, velocities, (errors.T @ x[chosen], errors.sum(0))):
                velocity.mul_(0.9).add_(slope)
                parameter -= rate * (slope + 0.9 * velocity)
            step += 1
    return parameters


@torch.inference_mode()
def ridge(x, y, classes, decay=0.01):
    """The same by ridge regression on standardized features."""
    std, mean = torch.std_mean(x, 0)
    z = (x - mean) / (std + 1e-6)
    targets = torch.nn.functional.one_hot(y, classes).float()
    matrix = z.T @ z + decay * len(x) * torch.eye(x.shape[1])
    weights = torch.linalg.solve(matrix, z.T @ (targets - targets.mean(0))).T / (std + 1e-6)
    return weights, targets.mean(0) - weights @ mean


def evaluate(weights, train, val):
    x, x_val = features(weights, train, val)
    y, classes = train.classes, int(max(train.classes.max(), val.classes.max())) + 1
    right = lambda layer, x, y: ((x @ layer[0].T + layer[1]).argmax(1) == y).sum().item()
    fold = train.rois[:, 0].long() % FOLDS
    variance = torch.linalg.svdvals(x - x.mean(0)).square()
    share = variance / variance.sum()
    results = {"top1": right(linear_layer(x, y, classes), x_val, val.classes) / len(x_val)}
    for name, fit in (("cv", linear_layer), ("cv_ridge", ridge)):
        folds = [(fold != n, fold == n) for n in range(FOLDS)]
        results[name] = sum(right(fit(x[a], y[a], classes), x[b], y[b]) for a, b in folds) / len(x)
    results = {name: round(100 * share, 2) for name, share in results.items()}
    return results | {"rank": round(torch.special.entr(share).sum().exp().item(), 1)}


class Search:
    def __init__(self, options):
        self.bin, self.out, self.images = options.bin, options.out, options.sources[0]
        self.out.mkdir(parents=True, exist_ok=True)
        train, train_boxes, val, val_boxes = options.sources
        self.boxes = Boxes(train, train_boxes), Boxes(val, val_boxes)

    def lock(self, name):
        """Held until closed, or until this process ends."""
        file = open(self.out / name, "a")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def next_trial(self):
        """A trial that no worker has taken, with its lock: a killed worker's is taken again."""
        queue = self.out / "queue.jsonl"
        for line in queue.read_text().splitlines() if queue.exists() else []:
            trial = TRIAL | json.loads(line)
            run = self.out / "runs" / trial["name"]
            run.mkdir(parents=True, exist_ok=True)
            lock = open(run / "lock", "a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not (run / "done").exists():
                return trial, run, lock
        return None

    def pretrain(self, trial, run):
        seed = ["--seed", str(trial["seed"]), "--threads", "1"]
        prep = ["--epochs", str(trial["epochs"]), "--views", "recipe", *trial["prep"].split(), *seed]
        shards = self.out / "shards" / hashlib.md5(" ".join(prep).encode()).hexdigest()[:10]
        with open(run / "log", "a") as log, self.lock("prep.lock"):
            line = [self.bin / "scrl-prep", "--quiet", *prep, self.images, shards]
            subprocess.run(line, stdout=log, stderr=log, check=True)
        with open(run / "log", "a") as log:
            line = [self.bin / "scrl-train", "--arch", "resnet18", "--method", trial["method"], *seed]
            line += [*trial["train"].split(), "--checkpoint-every", "500", "--out", run / "run", shards]
            subprocess.run(line, stdout=log, stderr=log, check=True)
        return run / "run/backbone.safetensors"

    def work(self):
        """Runs one trial; whether there was one."""
        found = self.next_trial()
        if not found:
            return False
        trial, run, lock = found
        with lock:
            try:
                torch.manual_seed(trial["seed"])
                weights = None if trial["method"] == "random" else self.pretrain(trial, run)
                result = evaluate(weights, *self.boxes)
            except subprocess.CalledProcessError as error:
                result = {"error": f"exit code {error.returncode}; see {run / 'log'}"}
            with self.lock("results.jsonl") as results:
                results.write(json.dumps({"trial": trial} | result) + "\n")
            (run / "done").touch()
        return True


def main():
    options = arguments()
    os.nice(19)
    torch.set_num_threads(1)
    search = Search(options)
    while search.work() or options.wait:
        time.sleep(1)


if __name__ == "__main__":
    main()
