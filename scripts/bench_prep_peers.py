#!/usr/bin/env python3
"""Time another library on the two views of every image that scrl-prep makes.

    bench_prep_peers.py AlbumentationsX|torchvision|DALI IMAGES [--workers N] [--epochs N]

The library decodes the images and makes both views with the method's parameters, as normalized
tensors in batches; nothing is encoded or written, unlike in scrl-prep. After a warm-up epoch, the
others are timed together. Prints their pairs a second. Exits with 3 if the library is not
installed. bench_prep.sh runs it in turns with scrl-prep.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

NOT_INSTALLED = 3
SIZE, BATCH = 224, 32
SCALE, KERNEL, SIGMA = (0.2, 1.0), 23, (0.1, 2.0)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Probability of blur and of solarization, by view.
VIEWS = ((1.0, 0.0), (0.1, 0.2))


class Pairs:
    """Both views of each image; `decode` reads an image, each of `views` augments it."""

    def __init__(self, files, decode, views):
        self.files, self.decode, self.views = files, decode, views

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = self.decode(self.files[index])
        return [view(image) for view in self.views]


def timed(work, epochs):
    """Pairs and seconds of `epochs` calls of a function that returns its number of pairs."""
    start = time.perf_counter()
    pairs = sum(work() for _ in range(epochs))
    return pairs, time.perf_counter() - start


def time_loader(pairs, workers, epochs):
    """Pairs and seconds of torch's loader, after its workers are warm."""
    import torch

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(pairs, BATCH, num_workers=workers, persistent_workers=True)
    for _ in loader:
        pass
    return timed(lambda: sum(len(first) for first, _ in loader), epochs)


def torchvision_and_pillow(files, workers, epochs):
    from PIL import Image
    from torchvision import transforms as T

    def view(blur, solarize):
        return T.Compose([
            T.RandomResizedCrop(SIZE, SCALE, interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            T.RandomGrayscale(0.2),
            T.RandomApply([T.GaussianBlur(KERNEL, SIGMA)], blur),
            T.RandomSolarize(128, solarize),
            T.ToTensor(),
            T.Normalize(MEAN, DEVIATION),
        ])

    def decode(path):
        return Image.open(path).convert("RGB")

    return time_loader(Pairs(files, decode, [view(*each) for each in VIEWS]), workers, epochs)


def albumentations_x(files, workers, epochs):
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2
    import torch

    # One thread in each worker; there are as many workers as cores.
    cv2.setNumThreads(0)

    def view(blur, solarize):
        steps = A.Compose([
            A.RandomResizedCrop(size=(SIZE, SIZE), scale=SCALE, interpolation=cv2.INTER_CUBIC),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(
                brightness_range=(0.6, 1.4),
                contrast_range=(0.6, 1.4),
                saturation_range=(0.8, 1.2),
                hue_range=(-0.1, 0.1),
                p=0.8,
            ),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_range=(KERNEL, KERNEL), sigma_range=SIGMA, p=blur),
            A.Solarize(p=solarize),
            A.Normalize(MEAN, DEVIATION),
        ])
        return lambda x: torch.from_numpy(steps(image=x)["image"].transpose(2, 0, 1).copy())

    def decode(path):
        return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)

    return time_loader(Pairs(files, decode, [view(*each) for each in VIEWS]), workers, epochs)


def dali(files, workers, epochs):
    from nvidia.dali import fn, pipeline_def, types

    def perhaps(probability):
        return fn.random.coin_flip(probability=probability, dtype=types.BOOL)

    def uniform(low, high):
        return fn.random.uniform(range=(low, high))

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=None, enable_conditionals=True)
    def pipeline():
        def view(image, blur, solarize):
            cubic = types.INTERP_CUBIC
            out = fn.random_resized_crop(
                image, size=(SIZE, SIZE), random_area=SCALE, interp_type=cubic
            )
            if perhaps(0.8):
                out = fn.color_twist(
                    out,
                    brightness=uniform(0.6, 1.4),
                    contrast=uniform(0.6, 1.4),
                    saturation=uniform(0.8, 1.2),
                    hue=uniform(-36.0, 36.0),
                )
            if perhaps(0.2):
                out = fn.hsv(out, saturation=0.0)
            if perhaps(blur):
                out = fn.gaussian_blur(out, sigma=uniform(*SIGMA), window_size=KERNEL)
            if perhaps(solarize):
                bright = out >= 128
                out = fn.cast(bright * (255 - out) + (bright ^ True) * out, dtype=types.UINT8)
            return fn.crop_mirror_normalize(
                out,
                mirror=fn.random.coin_flip(),
                mean=[255 * mean for mean in MEAN],
                std=[255 * deviation for deviation in DEVIATION],
            )

        encoded, _ = fn.readers.file(files=files)
        image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        return tuple(view(image, *each) for each in VIEWS)

    pipe = pipeline()
    pipe.build()
    rounds = max(1, len(files) // BATCH)

    def work():
        for _ in range(rounds):
            pipe.run()
        return rounds * BATCH

    work()
    return timed(work, epochs)


PEERS = {"AlbumentationsX": albumentations_x, "torchvision": torchvision_and_pillow, "DALI": dali}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder", type=Path, metavar="IMAGES")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--epochs", type=int, default=8, help="timed epochs (8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    given = parser.parse_args()
    endings = {".jpg", ".jpeg"}
    files = (path for path in given.folder.rglob("*") if path.suffix.lower() in endings)
    files = sorted(map(str, files))
    if not files:
        sys.exit(f"bench_prep_peers: no JPEG in {given.folder}")
    try:
        pairs, seconds = PEERS[given.peer](files, given.workers, given.epochs)
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    results = {"pairs": pairs, "seconds": seconds, "pairs_per_s": pairs / seconds}
    if given.json:
        given.json.write_text(json.dumps(results) + "\n")
    print(f"{given.peer}: {pairs / seconds:,.0f} pairs/s")


if __name__ == "__main__":
    main()
