#!/usr/bin/env python3
"""Reads the images of a folder with Pillow and with scrl-prep's decoders, and compares.

usage: compare_decoders.py DECODER FOLDER [--list FILE] [--jobs N] [--lenient]

DECODER is the built example `decode_images` of scrl-preprocess. Prints a table with a row for each
format: files that both read, files that both refuse, false refusals (Pillow reads, scrl-prep
refuses), false acceptances (Pillow refuses, scrl-prep reads), and files that both read with other
pixels: another size, or levels that differ by more than 1.5 on average. `--list` writes a line for
each file that disagrees. Needs Pillow and numpy; see readers_requirements.txt for the version.
"""
import argparse
import collections
import io
import multiprocessing
import signal
import subprocess
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

# Levels of 255 by which the mean may differ: decoders of JPEG and lossy WebP round differently.
TOLERANCE = 1.5
# Seconds after which Pillow is stopped.
TIMEOUT = 60
MAGIC = [(b"\xff\xd8", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"),
         (b"II", "TIFF"), (b"MM", "TIFF"), (b"RIFF", "WebP"), (b"P", "PNM")]
COLUMNS = ["both read", "both refuse", "false refusal", "false acceptance", "pixels differ"]
DISAGREE = COLUMNS[2:]

decoder = None


def start(command):
    """Starts the decoder of this process."""
    global decoder
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, stop)
    decoder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def stop(*_):
    raise TimeoutError


def read_by_pillow(data):
    """The RGB pixels [height, width, 3], or the reason why there are none."""
    signal.alarm(TIMEOUT)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def read_by_scrl(path):
    """The same by the decoder of this process."""
    decoder.stdin.write(f"{path}\n".encode())
    decoder.stdin.flush()
    line = decoder.stdout.readline().decode().strip()
    if not line or line.startswith("refused "):
        return line.removeprefix("refused ") or "the decoder ended"
    width, height = map(int, line.split())
    pixels = decoder.stdout.read(width * height * 3)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def compare(path):
    """Path, format, verdict (one of COLUMNS), and what either side said."""
    data = path.read_bytes()
    kind = next((name for magic, name in MAGIC if data.startswith(magic)), "other")
    results = read_by_pillow(data), read_by_scrl(path)
    if decoder.poll() is not None:
        start(decoder.args)
    pillow, scrl = results
    refused = tuple(isinstance(result, str) for result in results)
    if any(refused):
        verdicts = {(True, True): COLUMNS[1], (False, True): COLUMNS[2], (True, False): COLUMNS[3]}
        said = [result if isinstance(result, str) else "read" for result in results]
        return path, kind, verdicts[refused], said
    if pillow.shape != scrl.shape:
        return path, kind, COLUMNS[4], [str(result.shape) for result in results]
    mean = np.abs(pillow.astype(np.int16) - scrl).mean()
    return path, kind, COLUMNS[4] if mean > TOLERANCE else COLUMNS[0], [f"mean {mean:.2f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("decoder", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--lenient", action="store_true")
    arguments = parser.parse_args()
    command = [str(arguments.decoder), *["--lenient"] * arguments.lenient]
    files = sorted(path for path in arguments.folder.rglob("*") if path.is_file())
    counts, lines = collections.Counter(), []
    with multiprocessing.Pool(arguments.jobs, start, [command]) as pool:
        for path, kind, verdict, said in pool.imap_unordered(compare, files, 8):
            counts[kind, verdict] += 1
            if verdict in DISAGREE:
                lines.append("\t".join([verdict, kind, str(path), *said]) + "\n")
    print("format   " + "".join(f"{column:>18}" for column in COLUMNS))
    kinds = sorted({kind for kind, _ in counts})
    for name, group in [*((kind, [kind]) for kind in kinds), ("all", kinds)]:
        row = [sum(counts[kind, column] for kind in group) for column in COLUMNS]
        print(f"{name:<9}" + "".join(f"{count:>18}" for count in row))
    if arguments.list:
        arguments.list.write_text("".join(sorted(lines)))


if __name__ == "__main__":
    main()
