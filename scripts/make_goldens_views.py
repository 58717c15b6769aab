#!/usr/bin/env python3
"""Write golden views: views that Pillow and torchvision render from given parameters.

    make_goldens_views.py [OUT]      (default: preprocess/tests/goldens)

Writes synthetic source images (PNG and JPEG), one PNG for each expected view, and views.json with
the parameters. Needs torch, torchvision, Pillow and numpy; the same versions give the same files.
"""
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.functional as F
from PIL import Image

import synthetic_images

PLAIN = dict(
    crop=None, flip=False, vertical_flip=False, turns=0,
    jitter=None, grayscale=False, blur=None, solarize=False,
)


def render(source, params, size, blur_kind):
    """A view as bytes [size, size, 3] from a Pillow image: the reference for our renderer."""
    x, y, w, h = params["crop"]
    view = source.crop((x, y, x + w, y + h)).resize((size, size), Image.BICUBIC)
    if params["flip"]:
        view = view.transpose(Image.FLIP_LEFT_RIGHT)
    if params["vertical_flip"]:
        view = view.transpose(Image.FLIP_TOP_BOTTOM)
    # Counterclockwise, as Image.ROTATE_90.
    view = np.rot90(np.array(view), params["turns"]).copy()
    tensor = torch.from_numpy(view).permute(2, 0, 1).float() / 255
    if (jitter := params["jitter"]) is not None:
        steps = dict(
            b=lambda t: F.adjust_brightness(t, jitter["brightness"]),
            c=lambda t: F.adjust_contrast(t, jitter["contrast"]),
            s=lambda t: F.adjust_saturation(t, jitter["saturation"]),
            h=lambda t: F.adjust_hue(t, jitter["hue"]),
        )
        for letter in jitter["order"]:
            tensor = steps[letter](tensor)
    if params["grayscale"]:
        tensor = F.rgb_to_grayscale(tensor, 3)
    if params["blur"] is not None and blur_kind == "gaussian":
        kernel = 2 * math.floor(size / 10 / 2) + 1
        tensor = F.gaussian_blur(tensor, [kernel, kernel], [params["blur"]] * 2)
    if params["blur"] is not None and blur_kind == "resize":
        side = int(size // round(params["blur"], 1))
        view = Image.fromarray(to_bytes(tensor))
        view = view.resize((side, side), Image.BICUBIC).resize((size, size), Image.BICUBIC)
        tensor = torch.from_numpy(np.array(view)).permute(2, 0, 1).float() / 255
    if params["solarize"]:
        tensor = F.solarize(tensor, 0.5)
    return to_bytes(tensor)


def to_bytes(tensor):
    return (tensor * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def jitter(order, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
    factors = dict(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    return dict(**factors, order=order)


def cases():
    """(source, size, blur kind, parameters) of every golden view."""
    small, whole = [20, 15, 90, 70], [0, 0, 160, 120]
    full = dict(brightness=0.7, contrast=1.35, saturation=0.85, hue=-0.08)
    strong = dict(brightness=0.3, saturation=1.8)
    bright = dict(brightness=1.4, contrast=0.6, saturation=1.2, hue=0.1)
    single = [
        dict(crop=[70, 50, 90, 70]),
        dict(crop=[0, 0, 64, 64]),
        dict(crop=[3, 100, 30, 20]),
        dict(flip=True),
        dict(jitter=jitter("bcsh", brightness=1.4)),
        dict(jitter=jitter("cbsh", contrast=1.4)),
        dict(jitter=jitter("cbsh", contrast=0.6)),
        dict(jitter=jitter("sbch", saturation=1.2)),
        dict(jitter=jitter("hbcs", hue=0.1)),
        dict(jitter=jitter("hbcs", hue=-0.1)),
        dict(jitter=jitter("bcsh", **full)),
        dict(jitter=jitter("hscb", **full)),
        dict(jitter=jitter("cshb", **bright)),
        dict(jitter=jitter("bhsc", **bright)),
        dict(grayscale=True),
        dict(blur=0.1),
        dict(blur=0.6),
        dict(blur=2.0),
        dict(solarize=True),
    ]
    for index, change in enumerate(single):
        yield ["a.png", "b.png"][index % 2], 64, "gaussian", {**PLAIN, "crop": small, **change}
    for factor in (1.1, 1.2, 1.5):
        blurred = dict(crop=small, blur=factor, solarize=factor == 1.5)
        yield "b.png", 64, "resize", {**PLAIN, **blurred}
    everything = dict(crop=[11, 7, 120, 100], flip=True, blur=1.3, solarize=True)
    everything["jitter"] = jitter("shcb", **full)
    yield "a.png", 96, "gaussian", {**PLAIN, **everything}
    yield "b.png", 96, "gaussian", {**PLAIN, **everything, "grayscale": True}
    yield "c.jpg", 64, "gaussian", {**PLAIN, "crop": whole}
    yield "c.jpg", 96, "gaussian", {**PLAIN, **everything}
    jittered = dict(crop=whole, blur=1.7, jitter=jitter("hcbs", **bright))
    yield "a.png", 224, "gaussian", {**PLAIN, **jittered}
    yield "c.jpg", 224, "resize", {**PLAIN, "crop": small, "blur": 1.2}
    for turned in [
        dict(vertical_flip=True),
        dict(turns=1),
        dict(flip=True, turns=2, jitter=jitter("sbch", contrast=1.4, **strong)),
        dict(vertical_flip=True, turns=3, jitter=jitter("bhcs", hue=0.4, **strong), blur=1.3),
    ]:
        yield "b.png", 48, "gaussian", {**PLAIN, "crop": small, **turned}


def main():
    goldens = Path(__file__).parent.parent / "preprocess/tests/goldens"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else goldens
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sources = [("a.png", (160, 120), 1), ("b.png", (150, 130), 2), ("c.jpg", (160, 120), 3)]
    for name, size, seed in sources:
        options = dict(quality=92) if name.endswith("jpg") else {}
        synthetic_images.scene(*size, seed).save(out / name, **options)
    index = []
    for number, (source, size, blur_kind, params) in enumerate(cases()):
        image = Image.open(out / source).convert("RGB")
        name = f"view-{number:02}.png"
        Image.fromarray(render(image, params, size, blur_kind)).save(out / name, optimize=True)
        index.append(dict(view=name, source=source, size=size, blur_kind=blur_kind, params=params))
    lines = ",\n".join("  " + json.dumps(entry) for entry in index)
    (out / "views.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(index)} views in {out}")


if __name__ == "__main__":
    main()
