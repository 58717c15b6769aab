#!/usr/bin/env python3
"""Test scrl-eval against PyTorch, torchvision and Pillow on the same weights, boxes and photos.

    test_eval.py [--bin target/debug] [--coco DIR] [--photos DIR] [--size 128] [--weights FILE.pth] [--keep DIR]

DIR of --coco holds train2017/, val2017/, instances_train2017.json and instances_val2017.json; --photos is a folder with a
folder for each class. Without them scenes are drawn. The weights are a torchvision ResNet-18's with random batch norms, or those
of --weights. For `scrl-eval roi` and `scrl-eval linear` this program computes the same and expects

  - the statistics of batch norms, tracked anew on the training images,
  - the features of every box, upright and mirrored, and of every photo   (both 1e-4 of their spread as an L2 norm),
  - top-1, from a linear layer that PyTorch trains on its own features, from the same initial values and in the same
    order of examples (one point, or one example), and the loss of its last epoch   (1 %).

The layer's learning rate is lower than the protocols': on few features of random weights theirs overshoots at first, and
then PyTorch's own float32 and float64 differ by more than that.

It does so twice: with PNGs that Pillow resized beforehand, so that both sides see the same pixels, and with PNGs of the
original size, which both sides resize. Those differ by a level here and there, which grows on the way through a network with
random weights. So the second time the limits are on the statistics of the first batch norm, which tell of the pixels (1e-3),
and on the accuracy; the other distances are only printed. Decoders of JPEG differ in the last bits as well, which is tested
elsewhere. Needs PyTorch, torchvision, Pillow, NumPy and safetensors.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy
import safetensors.torch
import torch
import torchvision
from PIL import Image

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SAME_PIXELS, RESIZED_PIXELS = 1e-4, 1e-3
ACCURACY_TOLERANCE, LOSS_TOLERANCE = 0.01, 0.01
LEARNING_RATE = 0.01
SEED = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=REPOSITORY / "target/debug")
    parser.add_argument("--coco", type=pathlib.Path)
    parser.add_argument("--photos", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures of scrl-eval roi")
    parser.add_argument("--weights", type=pathlib.Path, help="a ResNet-18 of torchvision")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="work here instead of in a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = arguments.keep or pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for same_pixels in (True, False):
            test = Test(arguments, folder.resolve(), same_pixels)
            test.roi()
            test.linear()
    print("all well")


class Test:
    def __init__(self, arguments, folder, same_pixels):
        self.bin, self.folder, self.size = arguments.bin.resolve(), folder, arguments.size
        self.photo_size, self.shorter = 96, round(96 * 256 / 224)
        self.tolerance = SAME_PIXELS if same_pixels else None
        self.same_pixels = same_pixels
        print("the same pixels:" if same_pixels else "images that both sides resize:")
        torch.manual_seed(0)
        self.weights = folder / "resnet18.pth"
        state = torch.load(arguments.weights, weights_only=True) if arguments.weights else random_state()
        torch.save(state, self.weights)
        single = ["--images", 120, "--val", 0, "--single", "--seed", 1]
        coco = arguments.coco or self.draw("boxes", "--images", 24, "--val", 12)
        photos = arguments.photos or self.draw("single", *single) / "train2017"
        self.coco = self.lossless("coco", coco, lambda image: image.resize((self.size, self.size), Image.BICUBIC))
        shorten = torchvision.transforms.Resize(self.shorter, Image.BICUBIC)
        self.photos = self.lossless("photos", photos, shorten)

    def run(self, program, *arguments):
        done = subprocess.run([self.bin / program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{program} {arguments}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def draw(self, name, *arguments):
        self.run("examples/make_scenes", self.folder / name, "--size", "160x120", *arguments)
        return self.folder / name

    def lossless(self, name, source, resize):
        """The same images as PNG files, resized or not, and lists of their boxes."""
        target = self.folder / f"{name}-{'resized' if self.same_pixels else 'png'}"
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
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
        places = [f"--{side}-{what}" for side in ("train", "val") for what in ("images", "boxes")]
        lists = [data / "instances_train2017.json", data / "instances_val2017.json"]
        given = [data / "train2017", lists[0], data / "val2017", lists[1]]
        self.run(
            "scrl-eval", "roi", "--checkpoint", self.weights, "--size", self.size, "--seed", SEED, "--lr", LEARNING_RATE, "--out", out,
            *[word for pair in zip(places, given) for word in pair],
        )
        train, val = (boxes_of(path) for path in lists)
        backbone, model = self.model()
        with torch.no_grad():
            track(backbone, [self.square(data / "train2017" / name) for name, _, _ in train])
            compare_statistics(model, out / "features/statistics.safetensors", self.tolerance)
            sides = {}
            for side, images, mirrored in (("train", train, False), ("train", train, True), ("val", val, False)):
                word = "mirrored" if mirrored else "upright"
                found = parts(out / "features", f"{side}-{word}")
                expected = self.box_features(backbone, data / f"{side}2017", images, mirrored)
                compare(f"features of {len(found)} {side} boxes, {word}", found, expected, self.tolerance)
                sides[side, mirrored] = expected
        results = json.loads((out / "results.json").read_text())
        classes = [[label for *_, labels in images for label in labels] for images in (train, val)]
        owners = [number for number, (*_, labels) in enumerate(train) for _ in labels]
        count = len(owners)
        both = torch.cat([sides["train", False], sides["train", True]])

        def rows(epoch, which):
            mirrored = [Stream(SEED, epoch, owners[i], EVALUATION).uniform() < 0.5 for i in which]
            return both[[i + count * m for i, m in zip(which, mirrored)]]

        found = train_linear(rows, classes[0], len(results["classes"]), 512, sides["val", False], classes[1])
        compare_results("roi", results, found, len(classes[1]))

    def square(self, path):
        return normalized(Image.open(path).resize((self.size, self.size), Image.BICUBIC))

    def box_features(self, backbone, folder, images, mirrored):
        features = []
        for name, (width, height), boxes, _ in ((n, Image.open(folder / n).size, b, c) for n, b, c in images):
            picture = self.square(folder / name)
            boxes = torch.tensor(boxes, dtype=torch.float64)
            boxes = boxes * torch.tensor([self.size / width, self.size / height] * 2, dtype=torch.float64)
            if mirrored:
                picture = picture.flip(-1)
                boxes = torch.stack([self.size - boxes[:, 2], boxes[:, 1], self.size - boxes[:, 0], boxes[:, 3]], 1)
            found = torchvision.ops.roi_align(
                backbone(picture[None]), [boxes.float()], (1, 1), spatial_scale=1 / 32, sampling_ratio=-1, aligned=False
            )
            features.append(found.flatten(1))
        return torch.cat(features)

    def linear(self):
        size, out = self.photo_size, self.folder / f"{self.photos.name}-linear"
        self.run(
            "scrl-eval", "linear", "--images", self.photos, "--checkpoint", self.weights, "--size", size,
            "--crops", 1, "--seed", SEED, "--epochs", 20, "--lr", LEARNING_RATE, "--out", out,
        )
        names = sorted(path.name for path in self.photos.iterdir() if path.is_dir())
        val, classes = [], [[], []]
        for number, name in enumerate(names):
            for place, path in enumerate(sorted((self.photos / name).iterdir()), 1):
                classes[place % 5 == 0].append(number)
                val += [path] if place % 5 == 0 else []
        pictures = torchvision.transforms.Compose([
            torchvision.transforms.Resize(self.shorter, Image.BICUBIC),
            torchvision.transforms.CenterCrop(size),
        ])
        backbone, _ = self.model()
        with torch.no_grad():
            expected = [backbone(normalized(pictures(Image.open(path)))[None]).mean((2, 3)) for path in val]
        expected = torch.cat(expected)
        compare(f"features of {len(val)} validation photos", parts(out / "features", "val"), expected, self.tolerance)
        # The crops are drawn by scrl-eval; what is trained on them is tested here.
        train = parts(out / "features", "train-00000")
        results = json.loads((out / "results.json").read_text())
        found = train_linear(
            lambda _, which: train[which], classes[0], len(names), 256, expected, classes[1], epochs=20
        )
        compare_results("linear", results, found, len(val))


def enlarge(content, size):
    """Boxes as they are when every image has become a square of that size."""
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
    """Per image its file, the corners of its boxes, and their classes: written anew from the rules of the documentation."""
    content = json.loads(path.read_text())
    ids = {category["id"]: n for n, category in enumerate(sorted(content["categories"], key=lambda c: c["id"]))}
    images = []
    for image in content["images"]:
        boxes, labels = [], []
        for annotation in (a for a in content["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = annotation["bbox"]
            x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, image["width"]), min(y + h, image["height"])
            if not annotation.get("iscrowd") and x1 - x0 >= 1 and y1 - y0 >= 1:
                boxes.append((x0, y0, x1, y1))
                labels.append(ids[annotation["category_id"]])
        if boxes:
            images.append((image["file_name"], boxes, labels))
    return images


def track(backbone, pictures, batch_size=8):
    """Batch norm statistics from scratch: the mean over batches, every second picture mirrored."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    backbone.train()
    pictures = [picture.flip(-1) if number % 2 else picture for number, picture in enumerate(pictures)]
    batch_size = min(batch_size, len(pictures))
    whole = len(pictures) // batch_size
    every = math.ceil(whole / 200)
    for number in range(0, whole, every):
        backbone(torch.stack(pictures[number * batch_size :][:batch_size]))
    backbone.eval()


def parts(folder, name):
    files = sorted(folder.glob(f"{name}-[0-9][0-9][0-9][0-9][0-9].safetensors"))
    return torch.cat([safetensors.torch.load_file(path)["vectors"] for path in files])


def compare(what, found, expected, tolerance):
    distance = ((found - expected).norm() / (expected - expected.mean(0)).norm()).item()
    print(f"  {what}: distance {distance:.1e} of their spread, largest difference {(found - expected).abs().max():.1e}")
    assert found.shape == expected.shape and (tolerance is None or distance < tolerance), what


def compare_statistics(model, path, tolerance):
    found = safetensors.torch.load_file(path)
    # Layers in the order of torchvision's modules, where a block's shortcut comes last.
    layers = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(found) == len(layers), (len(found), len(layers))
    first = torch.cat([layers[0].running_mean, layers[0].running_var])
    compare("statistics of the first batch norm", found["0000"].flatten(), first, tolerance or RESIZED_PIXELS)
    found = torch.cat([found[name].flatten() for name in sorted(found)])
    expected = torch.cat([torch.cat([layer.running_mean, layer.running_var]) for layer in layers])
    compare(f"statistics of {len(layers)} batch norms", found, expected, tolerance)


def compare_results(what, results, found, count):
    top1, loss = found
    print(f"  {what}: top-1 of {count}: scrl-eval {100 * results['top1']:.2f} %, PyTorch {100 * top1:.2f} %; "
          f"training loss {results['train_loss']:.5f}, {loss:.5f}")
    # Of under a hundred examples one is more than a point.
    assert results["val_examples"] == count and abs(results["top1"] - top1) <= max(ACCURACY_TOLERANCE, 1.01 / count), what
    assert abs(results["train_loss"] / loss - 1) < LOSS_TOLERANCE, what


# ---- The linear layer ----------------------------------------------------------------------------------------------

WEIGHT_INIT, EVALUATION = 7, 9
NO_EPOCH = 2**32 - 1


class Stream:
    """The random numbers of preprocess/src/rng.rs: Philox4x32-10 by seed, epoch, image and purpose."""

    def __init__(self, seed, epoch, image, purpose):
        self.key = seed & 0xFFFFFFFF, seed >> 32
        self.counter = [purpose << 24, epoch, image & 0xFFFFFFFF, image >> 32]
        self.words = []

    def u32(self):
        if not self.words:
            counter, key = list(self.counter), list(self.key)
            for number in range(10):
                if number:
                    key = [(k + step) & 0xFFFFFFFF for k, step in zip(key, (0x9E3779B9, 0xBB67AE85))]
                a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
                counter = [
                    (b >> 32) ^ counter[1] ^ key[0], b & 0xFFFFFFFF, (a >> 32) ^ counter[3] ^ key[1], a & 0xFFFFFFFF
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
    total, rising, step = steps * epochs, steps * warmup, 0
    for epoch in range(epochs):
        order = list(range(len(classes)))
        Stream(SEED, epoch, 2**64 - 1, EVALUATION).shuffle(order)
        sum_of_losses = 0.0
        for begin in range(0, len(order), batch_size):
            which, step = order[begin : begin + batch_size], step + 1
            progress = (step - rising) / (total - rising)
            lr = LEARNING_RATE * (step / rising if step <= rising else 0.5 * (1 + math.cos(math.pi * progress)))
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(layer(features(epoch, which)), classes[which])
            sum_of_losses += loss.item() * len(which)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        top1 = (layer(val).argmax(1) == torch.tensor(truth)).float().mean().item()
    return top1, sum_of_losses / len(classes)


if __name__ == "__main__":
    main()
