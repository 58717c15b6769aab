"""Synthetic images for tests, the same for the same seed."""
import json
import pathlib
import random

import numpy as np
from PIL import Image, ImageDraw


def scene(width, height, seed):
    """An image like a photo: a gradient, stripes, textured disks, a noisy patch, sensor noise."""
    numbers = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    base = np.stack([60 + 150 * y / height, 90 + 100 * x / width, 200 - 140 * y / height], -1)
    base += (20 * np.sin((x + 2 * y) / 5.0))[..., None] * [1, 0.5, 0.2]
    for _ in range(7):
        cx, cy, r = numbers.uniform(0, width), numbers.uniform(0, height), numbers.uniform(8, 30)
        color, phase = numbers.uniform(0, 255, 3), numbers.uniform(1.5, 6)
        inside = (x - cx) ** 2 + (y - cy) ** 2 < r * r
        base[inside] = (color + 30 * np.cos((x + y) / phase)[..., None])[inside]
    w, h = width // 4, height // 4
    base[:h, -w:] = numbers.uniform(0, 255, (h, w, 3))
    base += numbers.normal(0, 4, base.shape)
    return Image.fromarray(base.clip(0, 255).round().astype(np.uint8))


def write_class_folders(folder, count, classes, size=100):
    """Writes `count` PNG scenes of about `size` pixels to the class folders, which take turns."""
    for number in range(count):
        path = pathlib.Path(folder, classes[number % len(classes)], f"{number:03}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(size + 11 * (number % 7), size - 9 * (number % 5), number).save(path)


def write_coco(folder, count, seed):
    """Writes images/ and boxes.json in COCO's format: images with a bright and a dark rectangle
    each, their masks, and two of their corners as keypoints."""
    numbers = random.Random(seed)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for number in range(1, count + 1):
        image = Image.new("RGB", (160, 128), (120, 120, 120))
        for label, color in ((1, (240, 60, 50)), (2, (20, 30, 90))):
            width, height = numbers.randint(32, 64), numbers.randint(32, 64)
            x, y = numbers.randint(0, 160 - width), numbers.randint(0, 128 - height)
            ImageDraw.Draw(image).rectangle((x, y, x + width - 1, y + height - 1), fill=color)
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": label, "iscrowd": 0,
                "bbox": [x, y, width, height], "area": width * height, "segmentation": [corners],
                "keypoints": [x, y, 2, x + width, y, 2], "num_keypoints": 2,
            })
        image.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 128})
    points = {"keypoints": ["left_top", "right_top"], "skeleton": []}
    categories = [{"id": n, "name": name, **points} for n, name in ((1, "bright"), (2, "dark"))]
    content = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    (folder / "boxes.json").write_text(json.dumps(content))
