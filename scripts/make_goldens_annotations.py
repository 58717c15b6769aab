#!/usr/bin/env python3
"""Write trainer/tests/goldens/annotations/: an annotation file with the oddities that are found in
such files, and the boxes and classes that pycocotools finds in it.

    make_goldens_annotations.py [--out trainer/tests/goldens/annotations]

Needs pycocotools.

odd.json
    Three images of 40×30 pixels, written by Python's json: NaN and infinities, ids that are floats
    or texts, crowds marked by numbers and booleans, annotations without a box or with another
    number of values, of no category or image that is listed, and a second image of the same id.
expected.json
    The name of the image, the corners in pixels and the class of each box, by image and in the
    order of the file; crowds and boxes that are not four finite numbers are left out.
"""

import argparse
import contextlib
import io
import json
import math
import pathlib

from pycocotools.coco import COCO

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = [
    {"id": 1.0, "file_name": "a.png", "width": 40, "height": 30},
    {"id": "second", "file_name": "gone.png"},
    {"id": 3, "file_name": "c.png", "width": None, "height": math.nan},
    {"id": "second", "file_name": "b.png", "license": None},
]
CATEGORIES = [{"id": 9, "name": "zebra"}, {"id": 2.0, "name": "cat"}, {"id": "tree", "name": "tree"}]
ANNOTATIONS = [
    {"id": 1, "image_id": 1, "category_id": 9.0, "bbox": [1, 2, 10, 11.5], "iscrowd": 0, "area": 115},
    {"id": 2, "image_id": 3.0, "category_id": 2, "bbox": [0.25, 0.5, 39.75, 29.5], "area": math.nan},
    {"id": 3, "image_id": 1, "category_id": 2, "bbox": [3, math.nan, 10, 10], "iscrowd": 0},
    {"id": 4, "image_id": 1, "category_id": 2, "bbox": [3, 3, math.inf, 10], "iscrowd": 0},
    {"id": 5, "image_id": 1, "category_id": 2, "segmentation": [[1, 1, 9, 1, 9, 9]], "iscrowd": 0},
    {"id": 6, "image_id": 1, "category_id": 2, "bbox": [], "iscrowd": 0},
    {"id": 7, "image_id": 1, "category_id": 2, "bbox": None, "iscrowd": False},
    {"id": 8, "image_id": 1, "category_id": 2, "bbox": [4, 5, 6, 7], "iscrowd": True},
    {"id": 9, "image_id": 1, "category_id": 2, "bbox": [4, 5, 6, 7], "iscrowd": 1.0},
    {"id": 10, "image_id": 1, "category_id": 2, "bbox": [4, 5, 6, 7], "iscrowd": False},
    {"id": 11, "image_id": "second", "category_id": "tree", "bbox": [5, 6, 7, 8], "score": -math.inf},
    {"id": 12, "image_id": 77, "category_id": 2, "bbox": [4, 5, 6, 7]},
    {"id": 13, "image_id": 3, "category_id": 77, "bbox": [4, 5, 6, 7]},
    {"id": 14, "image_id": 3, "category_id": 9, "bbox": [4, 5, 6, 7, 0.5]},
    {"image_id": 3, "category_id": 9, "bbox": [20, 20, 5, 5], "note": "a \"NaN\" \\"},
]


def is_box(values):
    return isinstance(values, list) and len(values) == 4 and all(map(math.isfinite, values))


def boxes(path):
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(path))
    for image_id, image in found.imgs.items():
        for annotation in found.imgToAnns[image_id]:
            category = found.cats.get(annotation["category_id"])
            box = annotation.get("bbox")
            if annotation.get("iscrowd") or not category or not is_box(box):
                continue
            x, y, width, height = map(float, box)
            yield image["file_name"], [x, y, x + width, y + height], category["name"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    out = ROOT / "trainer/tests/goldens/annotations"
    parser.add_argument("--out", type=pathlib.Path, default=out)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    # pycocotools demands an id of every annotation.
    numbered = [{"id": 1000 + n, **annotation} for n, annotation in enumerate(ANNOTATIONS)]
    content = {"info": None, "images": IMAGES, "annotations": numbered, "categories": CATEGORIES}
    odd = out / "odd.json"
    odd.write_text(json.dumps(content, indent=1) + "\n")
    rows = ",\n".join(json.dumps(row) for row in boxes(odd))
    (out / "expected.json").write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
