#!/usr/bin/env python3
"""Golden tables: small Parquet files of images, written by Hugging Face's datasets.

usage: make_goldens_tables.py [OUT]      (default: preprocess/tests/goldens/tables)

Needs datasets (5.2), which brings pyarrow, and Pillow.
"""
import io
import os
import sys
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Pillow

GOLDENS = Path(__file__).resolve().parent.parent / "preprocess/tests/goldens/tables"
FINE, COARSE = ["apple", "bear", "castle"], ["fruit", "animal"]


def png(number):
    """An image whose width is its number plus 1."""
    file = io.BytesIO()
    Pillow.new("RGB", (number + 1, 4), (40 * number, 0, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(name, features, **columns):
    Dataset.from_dict(columns, Features(features)).to_parquet(name)


out = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDENS
out.mkdir(exist_ok=True)
os.chdir(out)
# As CIFAR-100: no column is called image or label.
write(
    "classes.parquet",
    {"img": Image(), "fine_label": ClassLabel(names=FINE), "coarse_label": ClassLabel(names=COARSE)},
    img=[png(0), png(1), png(2)],
    fine_label=[2, 0, 1],
    coarse_label=[0, 0, 1],
)
# Several images and several classes in a row, as of vision and language.
write(
    "lists.parquet",
    {"id": Value("string"), "images": List(Image()), "labels": List(ClassLabel(names=FINE))},
    id=["a", "b", "c", "d"],
    images=[[png(0), png(1)], [], None, [png(2)]],
    labels=[[1], [], None, [0, 2]],
)
# to_parquet keeps the paths of images that were loaded from files.
for name in ["a.png", "gone.png"]:
    Path(name).write_bytes(png(8)["bytes"])
write(
    "paths.parquet",
    {"image": Image(), "label": Value("string")},
    image=["a.png", "gone.png"],
    label=["cat", "dog"],
)
Path("gone.png").unlink()
