#!/usr/bin/env python3
"""Sort images with boxes into class folders, for scrl-eval linear.

    class_folders.py TRAIN TRAIN.json VAL VAL.json OUT

OUT/train/CLASS and OUT/val/CLASS become links to the images whose boxes are all of one class, for
the classes that both sides have such images of. If these are fewer than two, OUT is empty.
"""
import collections
import json
import pathlib
import shutil
import sys


def main():
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    train, train_boxes, val, val_boxes, out = map(pathlib.Path, sys.argv[1:])
    sides = {"train": by_class(train, train_boxes), "val": by_class(val, val_boxes)}
    common = sides["train"].keys() & sides["val"].keys()
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if len(common) < 2:
        print("class_folders: fewer than two classes have images of their own; no folders made")
        common = set()
    for side, images in sides.items():
        for name in common:
            folder = temporary / side / name.replace("%", "%25").replace("/", "%2F")
            folder.mkdir(parents=True)
            for number, path in images[name]:
                (folder / f"{number}-{path.name}").symlink_to(path)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)


def by_class(folder, boxes):
    """{class: [(id, path)]} of the images whose boxes are all of one class."""
    found = json.loads(boxes.read_text())
    names = {each["id"]: each["name"] for each in found["categories"]}
    classes = collections.defaultdict(set)
    for box in found["annotations"]:
        if box["category_id"] not in names:
            sys.exit(f"class_folders: {boxes}: no category has the id {box['category_id']} of a box")
        classes[box["image_id"]].add(names[box["category_id"]])
    images = collections.defaultdict(list)
    for image in found["images"]:
        path, of_image = (folder / image["file_name"]).resolve(), classes[image["id"]]
        if len(of_image) == 1 and path.is_file():
            images[of_image.pop()].append((image["id"], path))
    return images


if __name__ == "__main__":
    main()
