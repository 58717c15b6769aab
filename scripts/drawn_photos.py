"""Photos to test with, drawn without any package: class folders of PNG files, no two alike."""
import math
import pathlib
import random
import struct
import zlib


def draw(folder, count, classes, size=100):
    """Draws `count` photos into the class folders of `folder`, one class after the other."""
    folder = pathlib.Path(folder)
    for number in range(count):
        name = classes[number % len(classes)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        width, height = size + 11 * (number % 7), size - 9 * (number % 5)
        (folder / name / f"{number:03}.png").write_bytes(png(width, height, pixels(number, width, height)))


def pixels(seed, width, height):
    """Waves with discs before them: something to see at every scale."""
    chance = random.Random(seed)
    waves = [(chance.uniform(0.02, 0.2), chance.uniform(0.02, 0.2), chance.uniform(0, 6)) for _ in range(3)]
    discs = [
        (chance.uniform(0, width), chance.uniform(0, height), chance.uniform(8, 40), [chance.randrange(256) for _ in range(3)])
        for _ in range(6)
    ]
    rows = []
    for y in range(height):
        row = bytearray()
        for x in range(width):
            color = [int(128 + 100 * math.sin(a * x + b * y + c)) for a, b, c in waves]
            for left, top, radius, ink in discs:
                if (x - left) ** 2 + (y - top) ** 2 < radius**2:
                    color = ink
            row += bytes(color)
        rows.append(bytes(row))
    return rows


def png(width, height, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
