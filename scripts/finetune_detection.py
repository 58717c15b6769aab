#!/usr/bin/env python3
"""Fine-tune torchvision's detectors on COCO's format from a backbone of scrl-export, and measure AP with pycocotools.

    finetune_detection.py --recipe coco-faster-rcnn --backbone resnet50.pth \\
        --train-images coco/train2017 --train-boxes coco/annotations/instances_train2017.json \\
        --val-images coco/val2017 --val-boxes coco/annotations/instances_val2017.json --out runs/coco
    torchrun --nproc-per-node 8 finetune_detection.py …     on eight GPUs; --batch-size stays that of all together
    finetune_detection.py --smoke                           every detector, a few steps on a few drawn pictures

FPN is below every detector, every layer is trained, and batch norms are synchronised where there are several processes. A
backbone is a file of `scrl-export --to torchvision`, or none for random values. A recipe is a set of options; what is
given beside it wins. The recipes follow the settings of the paper's Tables 1 to 5: the 1x schedule, 640 to 800 pixels on the
shorter side on COCO and 480 to 800 on VOC; what the paper leaves open is as in Detectron2 (learning rate, steps, warm-up)
and, for VOC and Cityscapes, as in MoCo. VOC and Cityscapes are read in COCO's format as well: convert their lists first.

OUT holds options.json, metrics.jsonl, the newest state (a second start goes on from it), model.pth, detections.json and
results.json. Needs PyTorch, torchvision, Pillow, NumPy, pycocotools, and safetensors for backbones in that format.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import random
import sys
import tempfile
import time

import numpy
import torch
import torchvision
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import distributed
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import LastLevelMaxPool, resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

SCALES_640 = [640, 672, 704, 736, 768, 800]
SCALES_480 = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
ONE_X = {"iterations": 90_000, "steps": [60_000, 80_000], "batch_size": 16, "lr": 0.02, "warmup": 1000}
COCO_1X = ONE_X | {"scales": SCALES_640, "longest": 1333, "fraction": 1.0}
RECIPES = {
    "coco-faster-rcnn": COCO_1X | {"detector": "faster-rcnn"},
    "coco-retinanet": COCO_1X | {"detector": "retinanet", "lr": 0.01},
    "coco-mask-rcnn": COCO_1X | {"detector": "mask-rcnn"},
    "coco-keypoint-rcnn": COCO_1X | {"detector": "keypoint-rcnn"},
    # The same number of epochs over a tenth of the images.
    "coco-10-percent": COCO_1X
    | {"detector": "faster-rcnn", "fraction": 0.1, "iterations": 9_000, "steps": [6_000, 8_000]},
    "voc-faster-rcnn": ONE_X
    | {"detector": "faster-rcnn", "iterations": 24_000, "steps": [18_000, 22_000], "warmup": 100}
    | {"scales": SCALES_480, "longest": 1333, "fraction": 1.0},
    "cityscapes-mask-rcnn": ONE_X
    | {"detector": "mask-rcnn", "iterations": 24_000, "steps": [18_000], "batch_size": 8, "lr": 0.01}
    | {"scales": [800, 832, 864, 896, 928, 960, 992, 1024], "longest": 2048, "fraction": 1.0},
}
DETECTORS = {
    "faster-rcnn": (detection.FasterRCNN, ["bbox"]),
    "retinanet": (detection.RetinaNet, ["bbox"]),
    "mask-rcnn": (detection.MaskRCNN, ["bbox", "segm"]),
    "keypoint-rcnn": (detection.KeypointRCNN, ["bbox", "keypoints"]),
}
PLACES = ["train_images", "train_boxes", "val_images", "val_boxes"]
MOMENTUM, WEIGHT_DECAY, WARMUP_FACTOR, STEP_FACTOR = 0.9, 1e-4, 1e-3, 0.1
SHORTEST_SIDE = 1.0


class Unusable(Exception):
    """Told in one line."""


def main():
    options = parse()
    try:
        if options.smoke:
            smoke()
        else:
            finetune(options)
    except (Unusable, OSError) as problem:
        print(f"finetune_detection: {problem}", file=sys.stderr)
        return 1
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="coco-faster-rcnn")
    parser.add_argument("--detector", choices=DETECTORS)
    parser.add_argument("--arch", default="resnet50", help="resnet18, 34, 50 or 101 (default: %(default)s)")
    parser.add_argument("--backbone", default="none", help="a file of scrl-export --to torchvision, or none")
    for place in PLACES:
        parser.add_argument("--" + place.replace("_", "-"), type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--steps", type=int, nargs="*", help="iterations after which the learning rate falls to a tenth")
    parser.add_argument("--warmup", type=int, help="iterations in which it rises")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch-size", type=int, help="images of all processes together")
    parser.add_argument("--scales", type=int, nargs="+", help="shorter sides, ascending; the last one is tested with")
    parser.add_argument("--longest", type=int, help="limit of the longer side")
    parser.add_argument("--fraction", type=float, help="share of the training images, drawn with --seed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where PyTorch's autocast does")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode, for each that trains")
    parser.add_argument("--checkpoint-every", type=int, default=5000, metavar="ITERATIONS")
    parser.add_argument("--log-every", type=int, default=20, metavar="ITERATIONS")
    parser.add_argument("--proposals", type=int, help="of the first stage, and boxes that the second learns from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="test this program")
    options = parser.parse_args(arguments)
    for name, value in RECIPES[options.recipe].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    missing = [name for name in [*PLACES, "out"] if getattr(options, name) is None]
    if missing and not options.smoke:
        parser.error(" and ".join("--" + name.replace("_", "-") for name in missing) + ": missing")
    return options


# ---- Processes -----------------------------------------------------------------------------------------------------


def start_processes(options):
    """Joins the others that torchrun started; returns rank and number of processes."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if options.batch_size % world:
        raise Unusable(f"--batch-size: {options.batch_size} images cannot be shared by {world} processes")
    if world > 1:
        if options.device == "cuda":
            options.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
            torch.cuda.set_device(options.device)
        distributed.init_process_group("nccl" if options.device.startswith("cuda") else "gloo")
    return rank, world


# ---- Images and boxes ----------------------------------------------------------------------------------------------


class Images(torch.utils.data.Dataset):
    """A folder and its list. Labels count from 1; 0 is the background."""

    def __init__(self, folder, boxes, kinds, train, fraction=1.0, seed=0):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                self.list = COCO(str(boxes))
            except (KeyError, ValueError) as problem:
                raise Unusable(f"{boxes}: no list in COCO's format: {problem}") from problem
        self.folder, self.kinds, self.train = folder, kinds, train
        self.categories = sorted(self.list.getCatIds())
        self.labels = {category: label for label, category in enumerate(self.categories, 1)}
        self.swaps, self.points = self.keypoints(boxes) if "keypoints" in kinds else ([], 0)
        self.ids = sorted(self.list.getImgIds())
        if train:
            self.ids = [number for number in self.ids if self.annotations(number)]
            random.Random(seed).shuffle(self.ids)
            self.ids = sorted(self.ids[: max(1, round(fraction * len(self.ids)))])
        if not self.ids:
            raise Unusable(f"{boxes}: no image with a box for {' and '.join(kinds)}")

    def keypoints(self, boxes):
        """Where left and right change places in a mirrored image, and how many points there are."""
        category = self.list.loadCats(self.categories)[0]
        names = category.get("keypoints")
        if not names:
            raise Unusable(f"{boxes}: its categories have no keypoints; take person_keypoints_*.json")
        other = lambda name: name.replace("left", "\0").replace("right", "left").replace("\0", "right")
        return [names.index(other(name)) for name in names], len(names)

    def annotations(self, number):
        found = self.list.loadAnns(self.list.getAnnIds(number, iscrowd=False))
        usable = [a for a in found if min(a["bbox"][2:]) >= SHORTEST_SIDE]
        if "segm" in self.kinds:
            usable = [a for a in usable if a.get("segmentation")]
        if "keypoints" in self.kinds:
            usable = [a for a in usable if any(a.get("keypoints", [])[2::3])]
        return usable

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        number = self.ids[index]
        path = self.folder / self.list.imgs[number]["file_name"]
        image = torchvision.transforms.functional.to_tensor(Image.open(path).convert("RGB"))
        if not self.train:
            return image, {"image_id": number}
        target = self.target(self.annotations(number), image.shape[-2:])
        if torch.rand(()) < 0.5:
            image, target = self.mirrored(image, target)
        return image, target

    def target(self, annotations, size):
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
        keep = ((boxes[:, 2:] - boxes[:, :2]) >= SHORTEST_SIDE).all(1)
        target = {"boxes": boxes[keep], "labels": torch.tensor([self.labels[a["category_id"]] for a in annotations])[keep]}
        if "segm" in self.kinds:
            masks = numpy.stack([self.list.annToMask(a) for a in annotations])
            target["masks"] = torch.from_numpy(masks)[keep]
        if "keypoints" in self.kinds:
            points = torch.tensor([a["keypoints"] for a in annotations], dtype=torch.float32)
            target["keypoints"] = points.view(len(annotations), -1, 3)[keep]
        return target

    def mirrored(self, image, target):
        width = image.shape[-1]
        target["boxes"] = torch.stack([width - target["boxes"][:, 2], target["boxes"][:, 1],
                                       width - target["boxes"][:, 0], target["boxes"][:, 3]], 1)
        if "masks" in target:
            target["masks"] = target["masks"].flip(-1)
        if "keypoints" in target:
            points = target["keypoints"][:, self.swaps].clone()
            points[..., 0] = torch.where(points[..., 2] > 0, width - points[..., 0], points[..., 0])
            target["keypoints"] = points
        return image.flip(-1), target


class Forever(torch.utils.data.Sampler):
    """Every image once an epoch, epoch after epoch in other orders, from a given image on; a process's share of them."""

    def __init__(self, count, seed, rank, world, first):
        self.count, self.seed, self.rank, self.world, self.first = count, seed, rank, world, first

    def __iter__(self):
        place = self.first + self.rank
        order, epoch = None, -1
        while True:
            if place // self.count != epoch:
                epoch = place // self.count
                order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()
            yield order[place % self.count]
            place += self.world


def together(samples):
    return list(zip(*samples))


# ---- Detectors -----------------------------------------------------------------------------------------------------


def build(options, classes, points):
    """A detector with every layer to be trained."""
    kind, kinds = DETECTORS[options.detector]
    retina = options.detector == "retinanet"
    backbone = resnet_fpn_backbone(
        backbone_name=options.arch,
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4] if retina else [1, 2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256) if retina else LastLevelMaxPool(),
    )
    if options.backbone != "none":
        load(backbone.body, options.backbone)
    more = {"num_keypoints": points} if "keypoints" in kinds else {}
    if options.proposals and not retina:
        more |= {"rpn_post_nms_top_n_train": options.proposals, "rpn_post_nms_top_n_test": options.proposals,
                 "box_batch_size_per_image": options.proposals}
    if retina:
        more["anchor_generator"] = detection.anchor_utils.AnchorGenerator(
            tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in [32, 64, 128, 256, 512]),
            ((0.5, 1.0, 2.0),) * 5,
        )
    return kind(backbone, classes, min_size=options.scales, max_size=options.longest, **more)


def load(body, path):
    """Puts a backbone's weights in, all of them."""
    if path.endswith(".safetensors"):
        import safetensors.torch

        state = safetensors.torch.load_file(path)
    else:
        state = torch.load(path, weights_only=True, map_location="cpu")
    try:
        missing, unexpected = body.load_state_dict(state, strict=False)
    except RuntimeError as problem:
        raise Unusable(f"{path}: of another architecture than --arch: {str(problem).splitlines()[1].strip()}") from problem
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    unexpected = [name for name in unexpected if not name.startswith("fc.")]
    if missing or unexpected:
        raise Unusable(f"{path}: no backbone of this --arch: lacks {missing[:1]}, has {unexpected[:1]} too much")


# ---- Training ------------------------------------------------------------------------------------------------------


def rate(options, iteration):
    """The learning rate of an iteration, counted from 0."""
    rising = min(1.0, WARMUP_FACTOR + (1 - WARMUP_FACTOR) * iteration / max(options.warmup, 1))
    return options.lr * rising * STEP_FACTOR ** sum(iteration >= step for step in options.steps)


def finetune(options):
    rank, world = start_processes(options)
    kinds = DETECTORS[options.detector][1]
    train = Images(options.train_images, options.train_boxes, kinds, True, options.fraction, options.seed)
    val = Images(options.val_images, options.val_boxes, kinds, False)
    if val.categories != train.categories:
        raise Unusable(f"{options.val_boxes}: other categories than {options.train_boxes}")
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    model = build(options, len(train.categories) + 1, train.points).to(device)
    if world > 1 and device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    options.out.mkdir(parents=True, exist_ok=True)
    newest, done = options.out / "state.pth", 0
    if newest.exists():
        state = torch.load(newest, weights_only=True, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    if rank == 0:
        print(f"{options.detector} on {options.arch} from {options.backbone}: {len(train)} images, {len(val)} to validate "
              f"with, iterations {done} to {options.iterations} on {world} x {device}", flush=True)
        (options.out / "options.json").write_text(json.dumps(vars(options), default=str, indent=1) + "\n")
    train_on(options, model, optimizer, train, (rank, world), done)
    results = evaluate(options, model, val, kinds, (rank, world))
    if rank == 0:
        replace(options.out / "model.pth", model.state_dict())
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def train_on(options, model, optimizer, train, place, done):
    rank, world = place
    device = torch.device(options.device)
    share = options.batch_size // world
    wrapped = model
    if world > 1:
        ids = [device.index] if device.type == "cuda" else None
        wrapped = torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)
    sampler = Forever(len(train), options.seed, rank, world, done * options.batch_size)
    loader = torch.utils.data.DataLoader(
        train, share, sampler=sampler, num_workers=options.workers, collate_fn=together,
        persistent_workers=options.workers > 0,
    )
    model.train()
    batches, begin = iter(loader), time.time()
    for iteration in range(done, options.iterations):
        images, targets = next(batches)
        images = [image.to(device) for image in images]
        targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
        lr = rate(options, iteration)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            losses = wrapped(images, targets)
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise Unusable(f"the loss of iteration {iteration + 1} is {loss.item()}; try a smaller --lr")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and ((iteration + 1) % options.log_every == 0 or iteration + 1 == options.iterations):
            speed = (iteration + 1 - done) * options.batch_size / (time.time() - begin)
            line = {"iteration": iteration + 1, "loss": loss.item(), "lr": lr, "images_per_s": speed}
            line |= {name: value.item() for name, value in losses.items()}
            with (options.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"iteration {iteration + 1}/{options.iterations}  loss {loss:.3f}  lr {lr:.2e}  {speed:.2f} images/s", flush=True)
        if rank == 0 and (iteration + 1) % options.checkpoint_every == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": iteration + 1}
            replace(options.out / "state.pth", state)


def replace(path, content):
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


# ---- Validation ----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def evaluate(options, model, val, kinds, place):
    """AP as COCO's own program computes it, by kind: boxes, masks, keypoints."""
    rank, world = place
    device = torch.device(options.device)
    model.eval()
    mine = torch.utils.data.Subset(val, range(rank, len(val), world))
    found = []
    loader = torch.utils.data.DataLoader(mine, 1, num_workers=options.workers, collate_fn=together)
    for images, targets in loader:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            outputs = model([image.to(device) for image in images])
        for target, output in zip(targets, outputs):
            found += detections(val, target["image_id"], {name: value.cpu() for name, value in output.items()})
    if world > 1:
        shares = [None] * world
        distributed.all_gather_object(shares, found)
        found = [one for share in shares for one in share]
    if rank != 0:
        return {}
    (options.out / "detections.json").write_text(json.dumps(found))
    results = {}
    for kind in kinds:
        results[kind] = average_precision(val, found, kind)
        told = "  ".join(f"{name} {100 * value:.2f}" for name, value in results[kind].items())
        print(f"{kind}: {told}", flush=True)
    return results


def detections(val, number, output):
    """What a detector found on an image, in the format of COCO's results."""
    boxes = output["boxes"].float()
    boxes[:, 2:] -= boxes[:, :2]
    result = [
        {"image_id": number, "category_id": val.categories[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(boxes.tolist(), output["labels"].tolist(), output["scores"].float().tolist())
    ]
    if "masks" in output:
        from pycocotools import mask

        for one, found in zip(result, output["masks"]):
            encoded = mask.encode(numpy.asfortranarray((found[0] > 0.5).numpy().astype(numpy.uint8)))
            one["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    if "keypoints" in output:
        for one, points in zip(result, output["keypoints"].float()):
            one["keypoints"] = points.flatten().tolist()
    return result


def average_precision(val, found, kind):
    names = ["AP", "AP50", "AP75", "AP_medium", "AP_large"] if kind == "keypoints" else \
        ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    if not found:
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(val.list, val.list.loadRes(found), kind)
        if kind == "keypoints" and val.points != 17:
            # The spread that COCO gives the 17 points of a person has no counterpart for others.
            judge.params.kpt_oks_sigmas = numpy.full(val.points, 0.05)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(names, judge.stats.tolist()))


# ---- A test --------------------------------------------------------------------------------------------------------


def draw_pictures(folder, count, seed):
    """Pictures with a bright and a dark rectangle each, their masks, and two of their corners as keypoints."""
    numbers = random.Random(seed)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for number in range(1, count + 1):
        picture = Image.new("RGB", (160, 128), (120, 120, 120))
        for label, color in ((1, (240, 60, 50)), (2, (20, 30, 90))):
            width, height = numbers.randint(32, 64), numbers.randint(32, 64)
            x, y = numbers.randint(0, 160 - width), numbers.randint(0, 128 - height)
            ImageDraw.Draw(picture).rectangle((x, y, x + width - 1, y + height - 1), fill=color)
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": label, "iscrowd": 0,
                "bbox": [x, y, width, height], "area": width * height, "segmentation": [corners],
                "keypoints": [x, y, 2, x + width, y, 2], "num_keypoints": 2,
            })
        picture.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 128})
    points = {"keypoints": ["left_top", "right_top"], "skeleton": []}
    categories = [{"id": n, "name": name, **points} for n, name in ((1, "bright"), (2, "dark"))]
    content = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    (folder / "boxes.json").write_text(json.dumps(content))


def smoke():
    """The first recipe of every detector learns for a step, goes on from its state, and is judged; a backbone arrives whole."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for side, seed in (("train", 0), ("val", 1)):
            draw_pictures(place / side, 4, seed)
        state = {n: t for n, t in torchvision.models.resnet18().state_dict().items() if not n.startswith("fc.")}
        torch.save(state, place / "resnet18.pth")
        for recipe in list(RECIPES)[: len(DETECTORS)]:
            places = [f"--{side}-{what}={place}/{side}/{name}" for side in ("train", "val")
                      for what, name in (("images", "images"), ("boxes", "boxes.json"))]
            small = ["--arch=resnet18", "--device=cpu", "--scales", "64", "96", "--longest=144", "--batch-size=2", "--proposals=16",
                     "--workers=0", "--log-every=1", "--lr=0.005", "--warmup=2", "--fraction=1", f"--recipe={recipe}"]
            begin = [*small, *places, f"--backbone={place}/resnet18.pth", f"--out={place}/{recipe}"]
            finetune(parse([*begin, "--iterations=1", "--checkpoint-every=1"]))
            options = parse([*begin, "--iterations=2"])
            results = finetune(options)
            lines = (place / recipe / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["iteration"] for line in lines] == [1, 2], lines
            assert list(results) == DETECTORS[options.detector][1] and all(0 <= r["AP"] <= 1 for r in results.values())
            model = build(options, 3, 2)
            loaded = model.backbone.body.state_dict()
            assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items() if name in loaded)
            assert all(parameter.requires_grad for parameter in model.parameters())
            print(f"{recipe}: bbox AP {100 * results['bbox']['AP']:.2f} after 2 iterations")
        try:
            finetune(parse([*begin, "--arch=resnet50", f"--out={place}/refused"]))
        except Unusable as told:
            print(f"refused: {told}")
        else:
            raise AssertionError("weights of a ResNet-18 went into a ResNet-50")
    print("all well")


if __name__ == "__main__":
    sys.exit(main())
