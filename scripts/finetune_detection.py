#!/usr/bin/env python3
"""Fine-tune torchvision's detectors from a backbone of scrl-export, and measure their AP on COCO.

    finetune_detection.py --recipe coco-faster-rcnn --backbone resnet50.pth \\
        --train-images coco/train2017 --train-boxes coco/annotations/instances_train2017.json \\
        --val-images coco/val2017 --val-boxes coco/annotations/instances_val2017.json \\
        --out runs/coco
    torchrun --nproc-per-node 8 finetune_detection.py …     --batch-size is that of all processes
    finetune_detection.py --smoke                           two iterations of each detector

Every detector has an FPN, every layer is trained, and batch norms are synchronized between
processes. A backbone is a file of `scrl-export --to torchvision`, or none for random weights. A
recipe is a set of options; options on the command line override it. The recipes follow the settings
of the paper's Tables 1 to 5: the 1x schedule, 640 to 800 pixels on the shorter side on COCO and 480
to 800 on VOC. Settings that the paper leaves open are Detectron2's (learning rate, steps, warm-up)
and, for VOC and Cityscapes, MoCo's. VOC and Cityscapes are read in COCO's format: convert their
annotations first.

OUT receives options.json, metrics.jsonl, the newest state (a run with the same --out resumes from
it), model.pth, detections.json and results.json. Needs PyTorch, torchvision, Pillow, NumPy,
pycocotools, and safetensors for backbones in that format.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import time

import numpy
import torch
import torchvision
from pycocotools.cocoeval import COCOeval
from torch import distributed
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import LastLevelMaxPool, resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import synthetic_images
from coco_dataset import CocoImages, EndlessSampler, UserError

SCALES_640 = [640, 672, 704, 736, 768, 800]
SCALES_480 = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
ONE_X = {"iterations": 90_000, "steps": [60_000, 80_000], "warmup": 1000}
ONE_X |= {"batch_size": 16, "lr": 0.02}
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
    | {"detector": "mask-rcnn", "iterations": 24_000, "steps": [18_000]}
    | {"batch_size": 8, "lr": 0.01}
    | {"scales": [800, 832, 864, 896, 928, 960, 992, 1024], "longest": 2048, "fraction": 1.0},
}
DETECTORS = {
    "faster-rcnn": (detection.FasterRCNN, ["bbox"]),
    "retinanet": (detection.RetinaNet, ["bbox"]),
    "mask-rcnn": (detection.MaskRCNN, ["bbox", "segm"]),
    "keypoint-rcnn": (detection.KeypointRCNN, ["bbox", "keypoints"]),
}
DATA = ["train_images", "train_boxes", "val_images", "val_boxes"]
MOMENTUM, WEIGHT_DECAY, WARMUP_FACTOR, STEP_FACTOR = 0.9, 1e-4, 1e-3, 0.1


def main():
    options = parse()
    try:
        if options.smoke:
            smoke()
        else:
            finetune(options)
    except (UserError, OSError) as error:
        print(f"finetune_detection: {error}", file=sys.stderr)
        return 1
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", choices=RECIPES, default="coco-faster-rcnn")
    add("--detector", choices=DETECTORS)
    add("--arch", default="resnet50", help="resnet18, 34, 50 or 101 (default: %(default)s)")
    add("--backbone", default="none", help="a file of scrl-export --to torchvision, or none")
    for name in DATA:
        add("--" + name.replace("_", "-"), type=pathlib.Path)
    add("--out", type=pathlib.Path)
    add("--iterations", type=int)
    add("--steps", type=int, nargs="*", help="iterations that divide the learning rate by 10")
    add("--warmup", type=int, help="iterations in which the learning rate rises")
    add("--lr", type=float)
    add("--batch-size", type=int, help="images of all processes together")
    add("--scales", type=int, nargs="+", help="shorter sides, ascending; the last one validates")
    add("--longest", type=int, help="limit of the longer side")
    add("--fraction", type=float, help="fraction of the training images, chosen by --seed")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--bf16", action="store_true", help="PyTorch's autocast to bfloat16")
    add("--workers", type=int, default=2, help="decoding processes for each training process")
    add("--checkpoint-every", type=int, default=5000, metavar="ITERATIONS")
    add("--log-every", type=int, default=20, metavar="ITERATIONS")
    add("--proposals", type=int, help="limits the first stage's proposals and the second's boxes")
    add("--seed", type=int, default=0)
    add("--smoke", action="store_true", help="test this program")
    options = parser.parse_args(arguments)
    for name, value in RECIPES[options.recipe].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    missing = [name for name in [*DATA, "out"] if getattr(options, name) is None]
    if missing and not options.smoke:
        parser.error(" and ".join("--" + name.replace("_", "-") for name in missing) + ": missing")
    return options


# ---- Processes -----------------------------------------------------------------------------------


def start_processes(options):
    """Joins the other processes of torchrun; returns rank and world size."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if options.batch_size % world_size:
        raise UserError(f"--batch-size: {options.batch_size} is no multiple of {world_size} ranks")
    if world_size > 1:
        if options.device == "cuda":
            options.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
            torch.cuda.set_device(options.device)
        distributed.init_process_group("nccl" if options.device.startswith("cuda") else "gloo")
    return rank, world_size


# ---- Detectors -----------------------------------------------------------------------------------


def build(options, classes, points):
    """A detector with all layers trainable."""
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
        limits = "rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test", "box_batch_size_per_image"
        more |= dict.fromkeys(limits, options.proposals)
    if retina:
        sizes = [[int(x * 2 ** (i / 3)) for i in range(3)] for x in [32, 64, 128, 256, 512]]
        ratios = ((0.5, 1.0, 2.0),) * 5
        more["anchor_generator"] = detection.anchor_utils.AnchorGenerator(sizes, ratios)
    return kind(backbone, classes, min_size=options.scales, max_size=options.longest, **more)


def load(body, path):
    """Loads a backbone's weights, all of them."""
    if path.endswith(".safetensors"):
        import safetensors.torch

        state = safetensors.torch.load_file(path)
    else:
        state = torch.load(path, weights_only=True, map_location="cpu")
    try:
        missing, unexpected = body.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(f"{path}: another architecture than --arch: {reason}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    unexpected = [name for name in unexpected if not name.startswith("fc.")]
    if missing or unexpected:
        names = f"missing {missing[:1]}, unexpected {unexpected[:1]}"
        raise UserError(f"{path}: not a backbone of this --arch: {names}")


# ---- Training ------------------------------------------------------------------------------------


def learning_rate(options, iteration):
    """The learning rate of an iteration, counted from 0."""
    warmup = min(1.0, WARMUP_FACTOR + (1 - WARMUP_FACTOR) * iteration / max(options.warmup, 1))
    return options.lr * warmup * STEP_FACTOR ** sum(iteration >= step for step in options.steps)


def finetune(options):
    rank, world_size = start_processes(options)
    kinds = DETECTORS[options.detector][1]
    subset = options.fraction, options.seed
    train = CocoImages(options.train_images, options.train_boxes, kinds, True, *subset)
    val = CocoImages(options.val_images, options.val_boxes, kinds, False)
    if val.categories != train.categories:
        raise UserError(f"{options.val_boxes}: other categories than {options.train_boxes}")
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    model = build(options, len(train.categories) + 1, train.points).to(device)
    if world_size > 1 and device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = torch.optim.SGD(model.parameters(), options.lr, MOMENTUM, weight_decay=WEIGHT_DECAY)
    options.out.mkdir(parents=True, exist_ok=True)
    newest, done = options.out / "state.pth", 0
    if newest.exists():
        state = torch.load(newest, weights_only=True, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    if rank == 0:
        print(
            f"{options.detector} with {options.arch} from {options.backbone}: "
            f"{len(train)} training images, {len(val)} validation images, "
            f"iterations {done} to {options.iterations} on {world_size} x {device}",
            flush=True,
        )
        write_json(options.out / "options.json", vars(options))
    train_on(options, model, optimizer, train, (rank, world_size), done)
    results = evaluate(options, model, val, kinds, (rank, world_size))
    if rank == 0:
        replace(options.out / "model.pth", model.state_dict())
        write_json(options.out / "results.json", results)
    return results


def train_on(options, model, optimizer, train, ranks, done):
    rank, world_size = ranks
    device = torch.device(options.device)
    wrapped = model
    if world_size > 1:
        ids = [device.index] if device.type == "cuda" else None
        wrapped = torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)
    seen = done * options.batch_size
    loader = torch.utils.data.DataLoader(
        train,
        options.batch_size // world_size,
        sampler=EndlessSampler(len(train), options.seed, rank, world_size, seen),
        num_workers=options.workers,
        collate_fn=collate,
        persistent_workers=options.workers > 0,
    )
    model.train()
    batches, begin = iter(loader), time.time()
    for iteration in range(done, options.iterations):
        images, targets = next(batches)
        images = [image.to(device) for image in images]
        targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
        lr = learning_rate(options, iteration)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            losses = wrapped(images, targets)
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise UserError(f"the loss of iteration {iteration + 1} is {loss.item()}; lower --lr")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        now = iteration + 1
        if rank == 0 and (now % options.log_every == 0 or now == options.iterations):
            speed = (now - done) * options.batch_size / (time.time() - begin)
            line = {"iteration": now, "loss": loss.item(), "lr": lr, "images_per_s": speed}
            line |= {name: value.item() for name, value in losses.items()}
            with (options.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            numbers = f"loss {loss:.3f}  lr {lr:.2e}  {speed:.2f} images/s"
            print(f"iteration {now}/{options.iterations}  {numbers}", flush=True)
        if rank == 0 and now % options.checkpoint_every == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": now}
            replace(options.out / "state.pth", state)


def collate(samples):
    return list(zip(*samples))


def write_json(path, content):
    path.write_text(json.dumps(content, default=str, indent=1) + "\n")


def replace(path, content):
    """Writes a file completely or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


# ---- Validation ----------------------------------------------------------------------------------


@torch.inference_mode()
def evaluate(options, model, val, kinds, ranks):
    """COCO's AP of each kind: boxes, masks, keypoints."""
    rank, world_size = ranks
    device = torch.device(options.device)
    model.eval()
    mine = torch.utils.data.Subset(val, range(rank, len(val), world_size))
    found = []
    loader = torch.utils.data.DataLoader(mine, 1, num_workers=options.workers, collate_fn=collate)
    for images, targets in loader:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            outputs = model([image.to(device) for image in images])
        for target, output in zip(targets, outputs):
            output = {name: value.cpu() for name, value in output.items()}
            found += detections(val, target["image_id"], output)
    if world_size > 1:
        of_ranks = [None] * world_size
        distributed.all_gather_object(of_ranks, found)
        found = [one for of_rank in of_ranks for one in of_rank]
    if rank != 0:
        return {}
    (options.out / "detections.json").write_text(json.dumps(found))
    results = {}
    for kind in kinds:
        results[kind] = average_precision(val, found, kind)
        columns = "  ".join(f"{name} {100 * value:.2f}" for name, value in results[kind].items())
        print(f"{kind}: {columns}", flush=True)
    return results


def detections(val, image_id, output):
    """A detector's output on an image in the format of COCO's results."""
    boxes = output["boxes"].float()
    boxes[:, 2:] -= boxes[:, :2]
    boxes, labels, scores = boxes.tolist(), output["labels"].tolist(), output["scores"].tolist()
    result = [
        {"image_id": image_id, "category_id": val.categories[k - 1], "bbox": box, "score": score}
        for box, k, score in zip(boxes, labels, scores)
    ]
    if "masks" in output:
        from pycocotools import mask

        for one, found in zip(result, output["masks"]):
            pixels = (found[0] > 0.5).numpy().astype(numpy.uint8)
            encoded = mask.encode(numpy.asfortranarray(pixels))
            one["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    if "keypoints" in output:
        for one, points in zip(result, output["keypoints"].float()):
            one["keypoints"] = points.flatten().tolist()
    return result


def average_precision(val, found, kind):
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    if kind == "keypoints":
        names.remove("AP_small")
    if not found:
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(val.list, val.list.loadRes(found), kind)
        if kind == "keypoints" and val.points != 17:
            # COCO has standard deviations for the 17 points of a person only.
            judge.params.kpt_oks_sigmas = numpy.full(val.points, 0.05)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(names, judge.stats.tolist()))


# ---- Smoke test ----------------------------------------------------------------------------------


def smoke():
    """The first recipe of every detector trains for an iteration, resumes for another, and is
    evaluated; all weights of the backbone are loaded."""
    small = "--arch=resnet18 --device=cpu --scales 64 96 --longest=144 --batch-size=2 --warmup=2"
    small += " --proposals=16 --workers=0 --log-every=1 --lr=0.005 --fraction=1"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data = []
        for side, seed in (("train", 0), ("val", 1)):
            synthetic_images.write_coco(folder / side, 4, seed)
            data += [f"--{side}-images={folder}/{side}/images"]
            data += [f"--{side}-boxes={folder}/{side}/boxes.json"]
        state = torchvision.models.resnet18().state_dict()
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        torch.save(state, folder / "resnet18.pth")
        for recipe in list(RECIPES)[: len(DETECTORS)]:
            given = [*small.split(), *data, f"--recipe={recipe}", f"--out={folder}/{recipe}"]
            given.append(f"--backbone={folder}/resnet18.pth")
            finetune(parse([*given, "--iterations=1", "--checkpoint-every=1"]))
            options = parse([*given, "--iterations=2"])
            results = finetune(options)
            lines = (folder / recipe / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["iteration"] for line in lines] == [1, 2], lines
            assert list(results) == DETECTORS[options.detector][1], results
            assert all(0 <= of_kind["AP"] <= 1 for of_kind in results.values()), results
            model = build(options, 3, 2)
            loaded = model.backbone.body.state_dict()
            names = state.keys() & loaded.keys()
            assert names and all(torch.equal(loaded[name], state[name]) for name in names)
            assert all(parameter.requires_grad for parameter in model.parameters())
            print(f"{recipe}: bbox AP {100 * results['bbox']['AP']:.2f} after 2 iterations")
        try:
            finetune(parse([*given, "--arch=resnet50", f"--out={folder}/refused"]))
        except UserError as error:
            print(f"refused: {error}")
        else:
            raise AssertionError("a ResNet-50 loaded the weights of a ResNet-18")
    print("finetune_detection: all checks passed")


if __name__ == "__main__":
    sys.exit(main())
