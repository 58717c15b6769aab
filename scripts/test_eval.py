#!/usr/bin/env python3
"""Test scrl-eval against PyTorch, torchvision and Pillow on the same weights, boxes and images.

    test_eval.py [--bin target/debug] [--coco DIR] [--images DIR] [--size 128]
                 [--weights FILE.pth] [--keep DIR]

The folder of --coco has train2017/, val2017/, instances_train2017.json and instances_val2017.json;
that of --images has a folder for each class. Without them, scenes are made. The weights are those
of --weights, or a torchvision ResNet-18's with random batch norms. For `scrl-eval roi` and
`scrl-eval linear` this program computes the same and compares

  - the batch norm statistics, tracked again on the training images,
  - the features of every box, upright and mirrored, and of every image
    (both 1e-4 of their standard deviation, as an L2 norm),
  - top-1 of a linear layer that PyTorch trains on its own features, from the same initial values
    and with the same permutations (one point, or one example),
  - the loss of its last epoch (1 %).

The layer's learning rate is lower than the protocols': with few features of random weights theirs
overshoots at first, and then PyTorch's own float32 and float64 differ by more than that.

All this runs twice: with PNGs that Pillow resized beforehand, so that both sides read the same
pixels, and with PNGs of the original size, which both sides resize. Those differ by a level in some
pixels, and a network with random weights amplifies it. So the second time only the statistics of
the first batch norm, which depend on the pixels alone (1e-3), and the accuracy have limits; the
other distances are only printed. JPEG decoders differ as well, which is tested elsewhere. Needs
PyTorch, torchvision, Pillow, NumPy, pyarrow and safetensors.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy
import pyarrow.parquet
import safetensors.torch
import torch
import torchvision
from PIL import Image

from scrl_torch import learning_rate

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SAME_PIXELS, RESIZED_PIXELS = 1e-4, 1e-3
ACCURACY_TOLERANCE, LOSS_TOLERANCE = 0.01, 0.01
LEARNING_RATE = 0.01
SEED = 3


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = pathlib.Path
    parser.add_argument("--bin", type=path, default=REPOSITORY / "target/debug")
    parser.add_argument("--coco", type=path, metavar="DIR")
    parser.add_argument("--images", type=path, metavar="DIR")
    parser.add_argument("--size", type=int, default=128, help="side of the images of scrl-eval roi")
    parser.add_argument("--weights", type=path, help="a ResNet-18 of torchvision")
    parser.add_argument("--keep", type=path, metavar="DIR", help="not in a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = arguments.keep or pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for same_pixels in (True, False):
            test = Test(arguments, folder.resolve(), same_pixels)
            test.roi()
            test.linear()
    print("test_eval: all checks passed")


class Test:
    def __init__(self, arguments, folder, same_pixels):
        self.bin, self.folder, self.size = arguments.bin.resolve(), folder, arguments.size
        self.crop_size, self.shorter = 96, round(96 * 256 / 224)
        self.tolerance = SAME_PIXELS if same_pixels else None
        self.same_pixels = same_pixels
        print("the same pixels:" if same_pixels else "images that both sides resize:")
        torch.manual_seed(0)
        self.weights = folder / "resnet18.pth"
        weights = arguments.weights
        state = torch.load(weights, weights_only=True) if weights else random_state()
        torch.save(state, self.weights)
        single = ["--images", 120, "--val", 0, "--single", "--seed", 1]
        coco = arguments.coco or self.make_scenes("boxes", "--images", 24, "--val", 12)
        images = arguments.images or self.make_scenes("single", *single) / "train2017"
        self.coco = self.lossless("coco", coco, self.to_square)
        shorten = torchvision.transforms.Resize(self.shorter, Image.BICUBIC)
        self.images = self.lossless("images", images, shorten)

    def run(self, program, *arguments):
        command = [self.bin / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{program} {arguments}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def make_scenes(self, name, *arguments):
        self.run("examples/make_scenes", self.folder / name, "--size", "160x120", *arguments)
        return self.folder / name

    def lossless(self, name, source, resize):
        """The same images as PNG files, resized or not, and lists of their boxes."""
        target = self.folder / f"{name}-{'resized' if self.same_pixels else 'png'}"
        endings = (".jpg", ".jpeg", ".png")
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in endings):
            png = (target / path.relative_to(source)).with_suffix(".png")
            if not png.exists():
                png.parent.mkdir(parents=True, exist_ok=True)
                image = Image.open(path).convert("RGB")
                (resize(image) if self.same_pixels else image).save(png, compress_level=1)
        for path in source.glob("instances_*.json"):
            content = json.loads(path.read_text())
            for image in content["images"]:
                image["file_name"] = str(pathlib.Path(image["file_name"]).with_suffix(".png"))
            if self.same_pixels:
                enlarge(content, self.size)
            (target / path.name).write_text(json.dumps(content))
        return target

    def model(self):
        model = torchvision.models.resnet18()
        model.load_state_dict(torch.load(self.weights, weights_only=True), strict=False)
        return torch.nn.Sequential(*list(model.children())[:-2]).eval(), model

    def roi(self):
        data, out = self.coco, self.folder / f"{self.coco.name}-roi"
        lists = {side: data / f"instances_{side}2017.json" for side in ("train", "val")}
        given = ["--checkpoint", self.weights, "--size", self.size, "--seed", SEED]
        for side, path in lists.items():
            given += [f"--{side}-images", data / f"{side}2017", f"--{side}-boxes", path]
        self.run("scrl-eval", "roi", *given, "--lr", LEARNING_RATE, "--out", out)
        train, val = (boxes_of(path) for path in lists.values())
        embedded = self.embed(
            "boxes", self.size, "--boxes", lists["train"], data / "train2017"
        )
        backbone, model = self.model()
        with torch.no_grad():
            images = [Image.open(data / "train2017" / name) for name, _, _ in train]
            track(backbone, [normalized(self.to_square(image)) for image in images])
            compare_statistics(model, out / "features/statistics.safetensors", self.tolerance)
            upright = self.compare_box_features(backbone, "train", train, False)
            mirrored = self.compare_box_features(backbone, "train", train, True)
            features = self.compare_box_features(backbone, "val", val, False)
        compare("scrl-embed of boxes", embedded, upright, self.tolerance)
        results = json.loads((out / "results.json").read_text())
        classes = [[label for *_, labels in images for label in labels] for images in (train, val)]
        owners = [number for number, (*_, labels) in enumerate(train) for _ in labels]
        both = torch.cat([upright, mirrored])

        def rows(epoch, which):
            flips = [Stream(SEED, epoch, owners[i], EVALUATION).uniform() < 0.5 for i in which]
            return both[[i + len(owners) * flip for i, flip in zip(which, flips)]]

        count = len(results["classes"])
        found = train_linear(rows, classes[0], count, 512, features, classes[1])
        compare_results("roi", results, found, len(classes[1]))

    def embed(self, name, size, *arguments):
        """The embeddings of scrl-embed."""
        out = self.folder / f"{self.coco.name}-{name}.parquet"
        given = ["--checkpoint", self.weights, "--size", size, "--seed", SEED]
        self.run("scrl-embed", *given, *arguments, out)
        column = pyarrow.parquet.read_table(out)["embedding"]
        return torch.tensor(numpy.stack(column.to_numpy()))

    def to_square(self, image):
        return image.resize((self.size, self.size), Image.BICUBIC)

    def compare_box_features(self, backbone, side, images, mirrored):
        """Our features of a side's boxes, after they are compared with those of scrl-eval."""
        word = "mirrored" if mirrored else "upright"
        found = features_in(self.folder / f"{self.coco.name}-roi", f"{side}-{word}")
        expected = self.box_features(backbone, self.coco / f"{side}2017", images, mirrored)
        compare(f"features of {len(found)} {side} boxes, {word}", found, expected, self.tolerance)
        return expected

    def box_features(self, backbone, folder, images, mirrored):
        features = []
        for name, boxes, _ in images:
            image = Image.open(folder / name)
            scale = [self.size / image.width, self.size / image.height] * 2
            boxes = torch.tensor(boxes, dtype=torch.float64)
            boxes = boxes * torch.tensor(scale, dtype=torch.float64)
            view = normalized(self.to_square(image))
            if mirrored:
                view = view.flip(-1)
                x0, y0, x1, y1 = boxes.unbind(1)
                boxes = torch.stack([self.size - x1, y0, self.size - x0, y1], 1)
            feature_map = backbone(view[None])
            # Spatial scale 1/32, adaptive sampling, aligned=False.
            found = torchvision.ops.roi_align(
                feature_map, [boxes.float()], (1, 1), 1 / 32, -1, False
            )
            features.append(found.flatten(1))
        return torch.cat(features)

    def linear(self):
        size, out = self.crop_size, self.folder / f"{self.images.name}-linear"
        self.run(
            "scrl-eval", "linear", "--images", self.images, "--checkpoint", self.weights,
            "--size", size, "--crops", 1, "--seed", SEED, "--epochs", 20, "--lr", LEARNING_RATE,
            "--out", out,
        )
        names = sorted(path.name for path in self.images.iterdir() if path.is_dir())
        # Every fifth image of a class is for validation.
        val, classes = [], [[], []]
        for label, name in enumerate(names):
            for number, path in enumerate(sorted((self.images / name).iterdir()), 1):
                classes[number % 5 == 0].append(label)
                val += [path] if number % 5 == 0 else []
        crop = torchvision.transforms.Compose([
            torchvision.transforms.Resize(self.shorter, Image.BICUBIC),
            torchvision.transforms.CenterCrop(size),
        ])
        backbone, _ = self.model()
        with torch.no_grad():
            crops = (normalized(crop(Image.open(path))) for path in val)
            expected = torch.cat([backbone(view[None]).mean((2, 3)) for view in crops])
        found = features_in(out, "val")
        compare(f"features of {len(val)} validation images", found, expected, self.tolerance)
        embedded = self.embed("images", size, self.images)
        paths = [path for name in names for path in sorted((self.images / name).iterdir())]
        with torch.no_grad():
            crops = (normalized(crop(Image.open(path))) for path in paths)
            expected_all = torch.cat([backbone(view[None]).mean((2, 3)) for view in crops])
        compare("scrl-embed of images", embedded, expected_all, self.tolerance)
        # The training crops are scrl-eval's own; the layer trained on their features is tested.
        train = features_in(out, "train-00000")
        results = json.loads((out / "results.json").read_text())
        found = train_linear(
            lambda _, which: train[which], classes[0], len(names), 256, expected, classes[1], 20
        )
        compare_results("linear", results, found, len(val))


def enlarge(content, size):
    """Scales the boxes for images that are resized to squares."""
    scales = {}
    for image in content["images"]:
        scales[image["id"]] = size / image["width"], size / image["height"]
        image["width"] = image["height"] = size
    for annotation in content["annotations"]:
        x, y = scales[annotation["image_id"]]
        annotation["bbox"] = [side * scale for side, scale in zip(annotation["bbox"], (x, y, x, y))]


def random_state():
    model = torchvision.models.resnet18()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model.state_dict()


def normalized(image):
    return (torchvision.transforms.functional.to_tensor(image) - MEAN) / STD


def boxes_of(path):
    """Of each image the file, the corners of its boxes, and their classes, as documented."""
    content = json.loads(path.read_text())
    labels_by_id = sorted(category["id"] for category in content["categories"])
    ids = {category: label for label, category in enumerate(labels_by_id)}
    images = []
    for image in content["images"]:
        boxes, labels = [], []
        for annotation in (a for a in content["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = annotation["bbox"]
            x0, x1 = max(x, 0), min(x + w, image["width"])
            y0, y1 = max(y, 0), min(y + h, image["height"])
            if not annotation.get("iscrowd") and x1 - x0 >= 1 and y1 - y0 >= 1:
                boxes.append((x0, y0, x1, y1))
                labels.append(ids[annotation["category_id"]])
        if boxes:
            images.append((image["file_name"], boxes, labels))
    return images


def track(backbone, images, batch_size=8):
    """Batch norm statistics from scratch: the mean over batches, every second image mirrored."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    backbone.train()
    images = [image.flip(-1) if number % 2 else image for number, image in enumerate(images)]
    batch_size = min(batch_size, len(images))
    batches = len(images) // batch_size
    for number in range(0, batches, math.ceil(batches / 200)):
        backbone(torch.stack(images[number * batch_size :][:batch_size]))
    backbone.eval()


def features_in(out, name):
    files = sorted(out.glob(f"features/{name}-[0-9][0-9][0-9][0-9][0-9].safetensors"))
    return torch.cat([safetensors.torch.load_file(path)["vectors"] for path in files])


def compare(what, found, expected, tolerance):
    assert found.shape == expected.shape, what
    difference = found - expected
    distance = (difference.norm() / (expected - expected.mean(0)).norm()).item()
    largest = difference.abs().max()
    print(f"  {what}: distance {distance:.1e} standard deviations, max difference {largest:.1e}")
    assert tolerance is None or distance < tolerance, what


def compare_statistics(model, path, tolerance):
    found = safetensors.torch.load_file(path)
    # In the sequence of torchvision's modules, where a block's shortcut comes last.
    layers = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    expected = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]
    found = [found[name] for name in sorted(found)]
    assert len(found) == len(expected), (len(found), len(expected))
    limit = tolerance or RESIZED_PIXELS
    first, count = "statistics of the first batch norm", len(layers)
    compare(first, torch.cat(found[:2]), torch.cat(expected[:2]), limit)
    compare(f"statistics of {count} batch norms", torch.cat(found), torch.cat(expected), tolerance)


def compare_results(what, results, found, count):
    top1, loss = found
    print(
        f"  {what}: top-1 of {count}: scrl-eval {100 * results['top1']:.2f} %, "
        f"PyTorch {100 * top1:.2f} %; training loss {results['train_loss']:.5f}, {loss:.5f}"
    )
    assert results["val_examples"] == count, what
    # One example is more than a point where there are under a hundred.
    assert abs(results["top1"] - top1) <= max(ACCURACY_TOLERANCE, 1.01 / count), what
    assert abs(results["train_loss"] / loss - 1) < LOSS_TOLERANCE, what


# ---- The linear layer ----------------------------------------------------------------------------

WEIGHT_INIT, EVALUATION = 7, 9
NO_EPOCH = 2**32 - 1


class Stream:
    """The random numbers of scrl-eval: Philox4x32-10 by seed, epoch, image and purpose."""

    def __init__(self, seed, epoch, image, purpose):
        self.key = seed & 0xFFFFFFFF, seed >> 32
        self.counter = [purpose << 24, epoch, image & 0xFFFFFFFF, image >> 32]
        self.words = []

    def u32(self):
        if not self.words:
            counter, key = list(self.counter), list(self.key)
            for number in range(10):
                if number:
                    steps = 0x9E3779B9, 0xBB67AE85
                    key = [(k + step) & 0xFFFFFFFF for k, step in zip(key, steps)]
                a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
                counter = [
                    (b >> 32) ^ counter[1] ^ key[0], b & 0xFFFFFFFF,
                    (a >> 32) ^ counter[3] ^ key[1], a & 0xFFFFFFFF,
                ]
            self.counter[0] += 1
            self.words = counter
        return self.words.pop(0)

    def u64(self):
        low = self.u32()
        return low | self.u32() << 32

    def uniform(self):
        return (self.u64() >> 11) * 2.0**-53

    def below(self, n):
        product = self.u64() * n
        while product & (2**64 - 1) < n and product & (2**64 - 1) < (2**64 - n) % n:
            product = self.u64() * n
        return product >> 64

    def shuffle(self, items):
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


def initial(name, shape, inputs):
    number = 0xCBF29CE484222325
    for byte in name.encode():
        number = (number ^ byte) * 0x100000001B3 & (2**64 - 1)
    stream, bound = Stream(SEED, NO_EPOCH, number, WEIGHT_INIT), 1 / math.sqrt(inputs)
    values = [-bound + 2 * bound * stream.uniform() for _ in range(math.prod(shape))]
    return torch.tensor(numpy.array(values, dtype=numpy.float32).reshape(shape))


def train_linear(features, classes, count, batch_size, val, truth, epochs=80, warmup=5):
    channels = val.shape[1]
    layer = torch.nn.Linear(channels, count)
    with torch.no_grad():
        layer.weight.copy_(initial("classifier.weight", (count, channels), channels))
        layer.bias.copy_(initial("classifier.bias", (count,), channels))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    classes = torch.tensor(classes)
    steps = math.ceil(len(classes) / batch_size)
    total, warmup_steps, step = steps * epochs, steps * warmup, 0
    for epoch in range(epochs):
        permutation = list(range(len(classes)))
        Stream(SEED, epoch, 2**64 - 1, EVALUATION).shuffle(permutation)
        sum_of_losses = 0.0
        for begin in range(0, len(permutation), batch_size):
            which, step = permutation[begin : begin + batch_size], step + 1
            lr = learning_rate(step, LEARNING_RATE, warmup_steps, total)
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            logits = layer(features(epoch, which))
            loss = torch.nn.functional.cross_entropy(logits, classes[which])
            sum_of_losses += loss.item() * len(which)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        top1 = (layer(val).argmax(1) == torch.tensor(truth)).float().mean().item()
    return top1, sum_of_losses / len(classes)


if __name__ == "__main__":
    main()
