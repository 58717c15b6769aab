#!/usr/bin/env python3
"""Check shards against Pillow and torchvision: render each view again from its parameters.

    check_views.py SHARDS IMAGES [--rows N]

Reads up to N rows (300) of each epoch with pyarrow, renders both views from the source in IMAGES as
make_goldens_views.py does, and compares the pixels. Boxes are checked as well: whether source and
views agree, the shortest side, the largest IoU; of points, whether they are points. Prints the measurements; exit code 1 where one is
outside its tolerance. Needs torch, torchvision, Pillow, numpy and pyarrow.
"""
import argparse
import collections
import io
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps

from make_goldens_views import render

MEAN_LIMIT, P99_LIMIT = 1.5, 8
MAPPING_LIMIT = 0.02


def check_pixels(view, image, options):
    """Mean and 99th percentile of the absolute difference, in levels of 0 to 255."""
    stored = np.asarray(Image.open(io.BytesIO(view["image"]["bytes"])).convert("RGB"))
    crop = [view["crop"][side] for side in ("x", "y", "width", "height")]
    expected = render(image, {**view, "crop": crop}, options["size"], options["blur"])
    difference = np.abs(stored.astype(int) - expected.astype(int))
    return difference.mean(), np.percentile(difference, 99)


def in_view(view, size, x, y):
    """A place of the source in a view, one step after the other."""
    crop = view["crop"]
    x, y = (x - crop["x"]) * size / crop["width"], (y - crop["y"]) * size / crop["height"]
    if view["flip"]:
        x = size - x
    if view["vertical_flip"]:
        y = size - y
    for _ in range(view["turns"]):
        x, y = y, size - x
    return x, y


def check_boxes(row, options, measured):
    size, boxes = options["size"], row["boxes"]
    are_points = options["box-sampler"] == "point"
    for box in boxes:
        for name in ("view1", "view2"):
            x0, y0, x1, y1 = box[name]
            if name == "view1" or options["box-jitter"] == 0:
                measured["side"].append(min(x1 - x0, y1 - y0))
                (u0, v0, u1, v1) = box["source"]
                corners = np.array([in_view(row[name], size, *at) for at in ((u0, v0), (u1, v1))])
                mapped = np.concatenate([corners.min(0), corners.max(0)])
                measured["mapping"].append(np.abs(mapped - box[name]).max())
            assert not are_points or (x0, y0) == (x1, y1), row["path"]
            measured["outside"].append(max(0, -x0, -y0, x1 - size, y1 - size))
    for i, a in enumerate(() if are_points else boxes):
        measured["iou"] += [iou(a["source"], b["source"]) for b in boxes[:i]]


def iou(a, b):
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a, b
    shared = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)


def rows_of(epoch, count):
    """The first `count` rows of an epoch's shards."""
    for shard in json.loads((epoch / "_SUCCESS").read_text())["parts"]:
        table = pq.read_table(epoch / shard["name"], partitioning=None)
        assert len(table) == shard["rows"], shard
        yield from table.slice(0, count).to_pylist()
        count -= len(table)
        if count <= 0:
            break


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rows", type=int, default=300, help="rows of each epoch (300)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = tomllib.loads((args.shards / "dataset.toml").read_text())["options"]
    measured = collections.defaultdict(list)
    rows = without_boxes = fewer = 0
    worst = (0, "")
    for epoch in sorted(args.shards.glob("epoch=*")):
        for row in rows_of(epoch, args.rows):
            image = Image.open(args.images / row["path"])
            if options["exif"] == "apply":
                image = ImageOps.exif_transpose(image)
            image = image.convert("RGB")
            assert image.size == (row["source_width"], row["source_height"]), row["path"]
            for name in ("view1", "view2") if options["views"] == "webp" else ():
                mean, p99 = check_pixels(row[name], image, options)
                measured["mean"].append(mean)
                measured["p99"].append(p99)
                worst = max(worst, (mean, f"{row['path']} {name} {epoch.name}"))
            check_boxes(row, options, measured)
            rows += 1
            without_boxes += not row["boxes"]
            fewer += 0 < len(row["boxes"]) < options["boxes"]

    if not rows:
        sys.exit(f"check_views: {args.shards}: no rows")
    mean, p99, side, mapping, outside, ious = (
        np.array(measured[name] or [0.0])
        for name in ("mean", "p99", "side", "mapping", "outside", "iou")
    )
    print(f"{rows} rows; without boxes {without_boxes / rows:.2%}, with fewer {fewer / rows:.2%}")
    print(f"mean difference: median {np.median(mean):.3f}, max {mean.max():.3f} levels, {worst[1]}")
    print(f"99th percentile: median {np.median(p99):.1f}, max {p99.max():.1f} levels")
    print(
        f"boxes: mapping error up to {mapping.max():.5f} px, outside by {outside.max():.5f} px, "
        f"shortest side {side.min():.4f} px, max IoU {ious.max():.6f}"
    )
    limit = options["iou"]
    if options["iou"] == "none" or options["iou-fallback"] == "keep-last":
        limit = 2
    good = (
        mean.max() <= MEAN_LIMIT
        and p99.max() <= P99_LIMIT
        and mapping.max() <= MAPPING_LIMIT
        and outside.max() == 0
        and (side.min() >= options["min-box"] - 1e-3 or side.max() == 0)
        and ious.max() <= limit + 1e-5
    )
    print("within the tolerance" if good else "OUTSIDE THE TOLERANCE")
    sys.exit(not good)


if __name__ == "__main__":
    main()
