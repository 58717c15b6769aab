#!/usr/bin/env python3
"""Checks shards against Pillow and torchvision: renders each view again from its recorded parameters.

usage: check_views.py SHARDS IMAGES [--rows N]

Reads up to N rows (default 300) of each epoch with pyarrow, renders both views from the source in IMAGES, and compares. Checks
the boxes too: that source and views agree, the shortest side, the largest IoU. Prints the figures; exit code 1 where one lies
outside the tolerance. Needs torch, torchvision, Pillow, numpy, pyarrow (and make_goldens_views.py beside it).
"""
import argparse
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


def check_pixels(row, view, image, options):
    stored = np.asarray(Image.open(io.BytesIO(view["image"]["bytes"])).convert("RGB"))
    c = view["crop"]
    params = {**view, "crop": [c["x"], c["y"], c["width"], c["height"]]}
    expected = render(image, params, options["size"], options["blur"])
    difference = np.abs(stored.astype(int) - expected.astype(int))
    return difference.mean(), np.percentile(difference, 99)


def check_boxes(row, options, figures):
    size = options["size"]
    boxes = row["boxes"]
    for box in boxes:
        for name in ("view1", "view2"):
            x0, y0, x1, y1 = box[name]
            if name == "view1" or options["box-jitter"] == 0:
                figures["side"].append(min(x1 - x0, y1 - y0))
                c, (u0, v0, u1, v1) = row[name]["crop"], box["source"]
                x = [(u - c["x"]) * size / c["width"] for u in (u0, u1)]
                y = [(v - c["y"]) * size / c["height"] for v in (v0, v1)]
                if row[name]["flip"]:
                    x = [size - x[1], size - x[0]]
                figures["mapping"].append(np.abs(np.array([x[0], y[0], x[1], y[1]]) - box[name]).max())
            figures["outside"].append(max(0, -x0, -y0, x1 - size, y1 - size))
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a["source"], b["source"]
            shared = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
            union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
            figures["iou"].append(shared / union)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rows", type=int, default=300, help="rows of each epoch (default 300)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = tomllib.loads((args.shards / "dataset.toml").read_text())["options"]
    figures = dict(mean=[], p99=[], side=[], mapping=[], outside=[], iou=[])
    rows = without_boxes = fewer = 0
    worst = (0, "")
    for epoch in sorted(args.shards.glob("epoch=*")):
        left = args.rows
        for part in json.loads((epoch / "_SUCCESS").read_text())["parts"]:
            table = pq.read_table(epoch / part["name"], partitioning=None)
            assert len(table) == part["rows"], part
            for row in table.slice(0, left).to_pylist():
                image = Image.open(args.images / row["path"])
                if options["exif"] == "apply":
                    image = ImageOps.exif_transpose(image)
                image = image.convert("RGB")
                assert image.size == (row["source_width"], row["source_height"]), row["path"]
                for name in ("view1", "view2") if options["views"] == "webp" else ():
                    mean, p99 = check_pixels(row, row[name], image, options)
                    figures["mean"].append(mean)
                    figures["p99"].append(p99)
                    worst = max(worst, (mean, f"{row['path']} {name} {epoch.name}"))
                check_boxes(row, options, figures)
                rows += 1
                without_boxes += not row["boxes"]
                fewer += 0 < len(row["boxes"]) < options["boxes"]
            left -= len(table)
            if left <= 0:
                break

    figures = {name: np.array(values or [0.0]) for name, values in figures.items()}
    mean, p99 = figures["mean"], figures["p99"]
    print(f"{rows} rows; without boxes {without_boxes / rows:.2%}, with fewer {fewer / rows:.2%}")
    print(f"mean difference: median {np.median(mean):.3f}, largest {mean.max():.3f} levels ({worst[1]})")
    print(f"99th percentile: median {np.median(p99):.1f}, largest {p99.max():.1f} levels")
    print(f"boxes: mapping error at most {figures['mapping'].max():.5f} px, outside by {figures['outside'].max():.5f} px,")
    print(f"  shortest side {figures['side'].min():.4f} px, largest IoU {figures['iou'].max():.6f}")
    limit = 2 if options["iou"] == "none" or options["iou-fallback"] == "keep-last" else options["iou"]
    good = (
        mean.max() <= MEAN_LIMIT
        and p99.max() <= P99_LIMIT
        and figures["mapping"].max() <= MAPPING_LIMIT
        and figures["outside"].max() == 0
        and (figures["side"].min() >= options["min-box"] - 1e-3 or figures["side"].max() == 0)
        and figures["iou"].max() <= limit + 1e-5
    )
    print("within the tolerance" if good else "OUTSIDE THE TOLERANCE")
    sys.exit(not good)


if __name__ == "__main__":
    main()
