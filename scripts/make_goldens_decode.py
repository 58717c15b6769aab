#!/usr/bin/env python3
"""Golden decodes: small image files of every kind and the pixels that Pillow reads from them.

usage: make_goldens_decode.py [OUT]      (default: preprocess/tests/goldens/decode)

Writes the files, expected.rgb (the pixels of all of them, one after the other, equal ones once) and
index.json: for each file where its pixels begin, their size, whether its kind loses by compression,
whether the EXIF orientation was applied, and the --levels if they are not full; or, for a kind that
scrl-prep does not read, what its reason says. Kinds that Pillow reads but cannot write are written
here, byte by byte. Samples of more than 8 bits are read by tifffile or OpenCV, and become levels by
the formula of docs/inputs.md. Needs Pillow, numpy, tifffile, imagecodecs and OpenCV (also for JPEG's
rarer samplings). The same versions give the same files. One long
list of cases, a function for each format.
"""
import io
import json
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps

WIDTH, HEIGHT = 21, 14
PALETTE = [(37 * i % 256, (91 * i + 40) % 256, (201 * i + 7) % 256) for i in range(256)]


def picture(width=WIDTH, height=HEIGHT, seed=0):
    """RGB bytes [height, width, 3]: a gradient, waves and a little noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = 40 * np.sin(x / 3 + y / 5)
    colors = np.stack([255 * x / width, 255 * y / height + \
                      waves, 200 - 120 * x / width - waves], -1)
    noise = np.random.default_rng(seed).normal(0, 6, colors.shape)
    return (colors + noise).clip(0, 255).round().astype(np.uint8)


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def indices(bits, width=WIDTH, height=HEIGHT):
    """Palette indices or gray levels of `bits` bits [height, width]."""
    y, x = np.mgrid[0:height, 0:width]
    return ((x * 5 + y * y * 3) % (1 << bits)).astype(np.uint32)


def packed(samples, bits):
    """Rows [height, width × channels] of samples as bytes, the first in the highest bits."""
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in samples]
    each = ((samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
    return [np.packbits(row.reshape(-1)).tobytes() for row in each]


# PNG

def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
           (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples, bits, color, before=b"", interlaced=False):
    """Samples [height, width, channels], unfiltered; `before` are the chunks before the data."""
    height, width, channels = samples.shape
    parts = [(0, 0, 1, 1)] if not interlaced else PASSES
    rows = b""
    for left, top, dx, dy in parts:
        part = samples[top::dy, left::dx]
        if part.size:
            rows += b"".join(b"\0" + row for row in packed(part.reshape(part.shape[0], -1), bits))
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, int(interlaced))
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT",
                 zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pngs():
    rgb = picture().astype(np.uint32)
    alpha = indices(8)[..., None]
    low = indices(8)[..., None] * 7 % 256
    for bits in (1, 2, 4, 8):
        yield f"gray{bits}.png", png(indices(bits)[..., None], bits, 0)
        palette = chunk(b"PLTE", bytes(v for color in PALETTE[:1 << bits] for v in color))
        clear = chunk(b"tRNS", bytes([0, 128, 255][:1 << bits]))
        yield f"palette{bits}.png", png(indices(bits)[..., None], bits, 3, palette)
        yield f"palette{bits}-clear.png", png(indices(bits)[..., None], bits, 3, palette + clear)
    yield "gray8-clear.png", png(indices(8)[..., None], 8, 0, chunk(b"tRNS", struct.pack(">H", 5)))
    yield "gray1-clear.png", png(indices(1)[..., None], 1, 0, chunk(b"tRNS", struct.pack(">H", 1)))
    gray16 = indices(8)[..., None] * 256 + low
    yield "gray16.png", png(gray16, 16, 0)
    yield "gray16-dark.png", png(gray16 // 128, 16, 0)
    data = png(gray16, 16, 0, chunk(b"tRNS", struct.pack(">H", int(gray16[0, 1, 0]))))
    yield "gray16-clear.png", data
    yield "rgb8.png", png(rgb, 8, 2)
    data = png(rgb, 8, 2, chunk(b"tRNS", struct.pack(">HHH", *map(int, rgb[0, 0]))))
    yield "rgb8-clear.png", data
    yield "rgb16.png", png(rgb * 256 + low, 16, 2)
    yield "gray8-alpha.png", png(np.concatenate([indices(8)[..., None], alpha], -1), 8, 4)
    yield "gray16-alpha.png", png(np.concatenate([gray16, gray16], -1), 16, 4)
    yield "rgba8.png", png(np.concatenate([rgb, alpha], -1), 8, 6)
    yield "rgba16.png", png(np.concatenate([rgb * 256 + low, gray16], -1), 16, 6)
    yield "rgb8-interlaced.png", png(rgb, 8, 2, interlaced=True)
    yield "gray1-interlaced.png", png(indices(1)[..., None], 1, 0, interlaced=True)
    palette = chunk(b"PLTE", bytes(v for color in PALETTE[:16] for v in color))
    yield "palette4-interlaced.png", png(indices(4)[..., None], 4, 3, palette, True)
    # Fewer colors than the bits could name, and a smaller index than that everywhere.
    palette = chunk(b"PLTE", bytes(v for color in PALETTE[:5] for v in color))
    yield "palette8-short.png", png(indices(2)[..., None], 8, 3, palette)
    yield "filtered.png", saved(Image.fromarray(picture()), "PNG", optimize=True)
    frames = [Image.fromarray(picture(seed=seed)) for seed in (0, 1)]
    yield "animated.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "gamma.png", png(rgb, 8, 2, chunk(b"gAMA", struct.pack(">I", 100000)))


# JPEG

def jpegs():
    wide = Image.fromarray(picture(37, 29))
    for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
        for progressive in (False, True):
            options = dict(quality=90, subsampling=subsampling, progressive=progressive)
            data = saved(wide, "JPEG", **options)
            yield f"{name}{'-progressive' if progressive else ''}.jpg", data
    for name in ("440", "411"):
        factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")
        options = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
        yield f"{name}.jpg", cv2.imencode(".jpg", np.array(wide)[..., ::-1], options)[1].tobytes()
    yield "gray.jpg", saved(wide.convert("L"), "JPEG", quality=90)
    yield "gray-progressive.jpg", saved(wide.convert("L"), "JPEG", quality=90, progressive=True)
    yield "restarts.jpg", saved(wide, "JPEG", quality=90, restart_marker_blocks=1)
    data = saved(wide, "JPEG", quality=90, restart_marker_rows=1, progressive=True)
    yield "restarts-progressive.jpg", data
    yield "low-quality.jpg", saved(wide, "JPEG", quality=10)
    # The largest coefficients and the longest codes, and the largest steps.
    contrast = np.random.default_rng(2).integers(0, 2, (23, 75, 3)).astype(np.uint8) * 255
    yield "444-contrast.jpg", saved(Image.fromarray(contrast), "JPEG", quality=95, subsampling=0)
    yield "444-rough.jpg", saved(Image.fromarray(contrast), "JPEG", quality=3, subsampling=0)
    yield "rgb-inside.jpg", saved(wide, "JPEG", quality=90, keep_rgb=True)
    # Where chroma is at most two samples wide, libjpeg repeats them, other
    # decoders interpolate: no 4:2:0 here.
    yield "tiny.jpg", saved(Image.fromarray(picture(3, 2)), "JPEG", quality=90, subsampling=0)
    yield "small.jpg", saved(Image.fromarray(picture(6, 3)), "JPEG", quality=90)
    yield "wide.jpg", saved(Image.fromarray(picture(40, 1)), "JPEG", quality=90)
    yield "row-of-blocks.jpg", saved(Image.fromarray(picture(17, 33)), "JPEG", quality=90)
    ink = np.concatenate([255 - picture(37, 29), indices(8, 37, 29)
                         [..., None].astype(np.uint8) // 2], -1)
    cmyk = saved(Image.frombytes("CMYK", wide.size, ink.tobytes()), "JPEG", quality=90)
    yield "cmyk.jpg", cmyk
    data = saved(Image.frombytes("CMYK", wide.size, ink.tobytes()), "JPEG", progressive=True)
    yield "cmyk-progressive.jpg", data
    at = cmyk.index(b"\xff\xee")
    yield "cmyk-without-adobe.jpg", cmyk[:at] + cmyk[at + 16:]
    # Luma and chroma stored as if they were inks, then declared as what they are.
    ycc = np.concatenate([np.array(wide.convert("YCbCr")), 255 - ink[..., 3:]], -1)
    ycck = bytearray(
    saved(
        Image.frombytes(
            "CMYK",
            wide.size,
            (255 - ycc).tobytes()),
            "JPEG",
             quality=90))
    ycck[ycck.index(b"Adobe") + 11] = 2
    yield "ycck.jpg", bytes(ycck)
    # Marks that stand where they need not: fill bytes, a comment, text after the end.
    plain = saved(wide, "JPEG", quality=90)
    at = plain.index(b"\xff\xdb")
    yield "fill-bytes.jpg", plain[:at] + b"\xff" * 9 + plain[at:]
    yield "with-a-tail.jpg", plain + b"and more \xff\xd9 of it"
    # What libjpeg only warns of, or does not mind.
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    without_jfif = plain[:2] + plain[20:]
    yield "unknown-adobe.jpg", plain[:2] + adobe + b"\x07" + without_jfif[2:]
    yield "short-adobe.jpg", plain[:2] + b"\xff\xee\0\x09Adobe\0\x64" + plain[2:]
    yield "adobe-against-jfif.jpg", plain[:20] + adobe + b"\0" + plain[20:]
    scan = plain.index(b"\xff\xda") + 14
    assert plain[scan - 3:scan] == b"\0\x3f\0"
    yield "odd-band.jpg", plain[:scan - 3] + b"\x05\x70\xf2" + plain[scan:]
    tables = plain.index(b"\xff\xc4")
    yield "standard-tables.jpg", plain[:tables] + plain[scan - 14:]
    yield "junk-between.jpg", plain[:tables] + b"junk\xff\0" + plain[tables:]
    at = tables + 2 + struct.unpack_from(">H", plain, tables + 2)[0]
    yield "unused-table.jpg", plain[:at] + b"\xff\xc4\0\x16\3\3" + b"\0" * 18 + plain[at:]
    yield "restart-outside.jpg", plain[:-2] + b"\xff\xd3\xff\xd4" + plain[-2:]
    restarts = saved(wide, "JPEG", quality=90, restart_marker_blocks=1)
    third = restarts.index(b"\xff\xd2")
    yield "restart-astray.jpg", restarts[:third + 1] + b"\xd7" + restarts[third + 2:]
    # Gray with a sampling factor.
    gray = bytearray(saved(wide.convert("L"), "JPEG", quality=90))
    gray[gray.index(b"\xff\xc0") + 11] = 0x22
    yield "gray-sampled.jpg", bytes(gray)


# WebP

def webps():
    wide = Image.fromarray(picture(37, 29))
    alpha = wide.convert("RGBA")
    alpha.putalpha(Image.frombytes("L", wide.size, indices(8, 37, 29).astype(np.uint8).tobytes()))
    yield "lossy.webp", saved(wide, "WEBP", quality=80)
    yield "lossy-low.webp", saved(wide, "WEBP", quality=10)
    yield "lossless.webp", saved(wide, "WEBP", lossless=True)
    yield "lossy-alpha.webp", saved(alpha, "WEBP", quality=80, exact=True)
    yield "lossless-alpha.webp", saved(alpha, "WEBP", lossless=True, exact=True)
    other = Image.fromarray(picture(37, 29, 1))
    data = saved(wide, "WEBP", save_all=True, append_images=[other], lossless=True)
    yield "lossless-animated.webp", data
    # The first frame smaller than the canvas: Pillow's encoder cuts away what no frame changes.
    clear = Image.new("RGBA", (24, 20), (0, 0, 0, 0))
    clear.paste(alpha.crop((0, 0, 8, 6)), (4, 6))
    options = dict(
    save_all=True,
    append_images=[
        clear.transpose(
            Image.FLIP_TOP_BOTTOM)],
             lossless=True)
    data = saved(clear, "WEBP", background=(10, 20, 30, 255), **options)
    yield "lossless-animated-alpha.webp", data
    noise = np.random.default_rng(5).integers(0, 256, (9, 17, 3), dtype=np.uint8)
    yield "lossless-noise.webp", saved(Image.fromarray(noise), "WEBP", lossless=True)
    data = saved(Image.fromarray(noise[:1] // 64 * 64), "WEBP", lossless=True)
    yield "lossless-palette.webp", data


# BMP

def bmp(bits, rows, size, palette=(), compression=0, masks=b"", top_down=False, header=40):
    """A BMP from its rows of bytes, given from the top; RLE data instead are given as bytes."""
    if isinstance(rows, list):
        rows = [row + b"\0" * (-len(row) % 4) for row in rows]
        rows = b"".join(rows if top_down else reversed(rows))
    colors = b"".join(bytes([b, g, r, 0]) for r, g, b in palette)
    height = -size[1] if top_down else size[1]
    info = struct.pack(
    "<IiiHHIIiiII",
    header,
    size[0],
    height,
    1,
    bits,
    compression,
    len(rows),
    0,
    0,
    len(palette),
     0)
    info += masks + b"\0" * max(0, header - 40 - len(masks)) + colors
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(rows),
                               0, 0, 14 + len(info)) + info + rows


def bmps():
    size = (WIDTH, HEIGHT)
    rgb = picture()
    bgr = [row[:, ::-1].tobytes() for row in rgb]
    for bits in (1, 4, 8):
        data = bmp(bits, packed(indices(bits), bits), size, PALETTE[:1 << bits])
        yield f"palette{bits}.bmp", data
    yield "gray8.bmp", saved(Image.fromarray(rgb).convert("L"), "BMP")
    yield "palette8-short.bmp", bmp(8, packed(indices(2), 8), size, PALETTE[:4])
    yield "rgb24.bmp", bmp(24, bgr, size)
    yield "rgb24-top-down.bmp", bmp(24, bgr, size, top_down=True)
    four = np.concatenate([rgb[..., ::-1], indices(8)[..., None].astype(np.uint8)], -1)
    yield "rgb32.bmp", bmp(32, [row.tobytes() for row in four], size)
    yield "rgba32.bmp", saved(Image.fromarray(four[..., [2, 1, 0, 3]]), "BMP")
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    data = bmp(32, [row.tobytes() for row in four], size, (), 3, masks, header=108)
    yield "rgba32-fields.bmp", data
    r, g, b = (rgb[..., i].astype(np.uint16) for i in range(3))
    rows = [row.astype("<u2").tobytes() for row in (r >> 3 << 10) | (g >> 3 << 5) | (b >> 3)]
    yield "rgb555.bmp", bmp(16, rows, size)
    rows = [row.astype("<u2").tobytes() for row in (r >> 3 << 11) | (g >> 2 << 5) | (b >> 3)]
    yield "rgb565.bmp", bmp(16, rows, size, (), 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    # What runs leave out has the first color in Pillow and is black
    # elsewhere: here both are the same.
    colors = [(0, 0, 0)] + PALETTE[1:16]
    # Rows of a run, a literal stretch and an end before their time; one row
    # skipped by a jump; the end.
    last = b"\0\0" + b"\x02\x0c\0\x02\x02\x01" + b"\x11\x0e\0\x01"
    rows = [bytes([5, row, 3, row + 1]) + b"\0\x05\3\4\5\6\7\0" + bytes([8 - row % 2, 15])
            for row in range(HEIGHT - 2)]
    yield "rle8.bmp", bmp(8, b"\0\0".join(rows) + last, size, colors, 1)
    rle8 = rows
    rows = [bytes([5, row + 16, 3, row + 33]) + b"\0\x05\x34\x56\x70\0" + bytes([8 - row % 2, 0xFA])
            for row in range(HEIGHT - 2)]
    yield "rle8-top-down.bmp", bmp(8, b"\0\0".join(rle8) + last, size, colors, 1, top_down=True)
    # Pixels that jumps leave out have the first color; a run ends where its row does.
    jumps = b"\0\2\5\1\4\7\0\0\x40\x08\0\0\0\3\1\2\3\0\0\2\0\3\2\5\0\1"
    end = jumps[:-2] + bytes([WIDTH, 9, 0, 0]) * HEIGHT
    yield "rle8-jumps.bmp", bmp(8, end, size, PALETTE[1:17], 1)
    yield "planes.bmp", bmp(24, bgr, size)[:26] + b"\x07\0" + bmp(24, bgr, size)[28:]
    yield "os2.bmp", bmp(8, packed(indices(8), 8), size, PALETTE, header=64)
    yield "rle4.bmp", bmp(4, b"\0\0".join(rows) + last, size, colors, 2)


# TIFF

def tiff(entries, strips, order="<"):
    """A TIFF of one directory: entries are tag → (type, values); offsets are filled in."""
    places, counts = (324, 325) if 322 in entries else (273, 279)
    entries = {**entries, places: (4, [0] * len(strips)),
                                   counts: (4, [len(strip) for strip in strips])}
    size = 8 + 2 + 12 * len(entries) + 4
    lengths = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4)}
    at = size + sum(n for t, v in entries.values() if (n := lengths[t][1] * len(v)) > 4)
    offsets = []
    for strip in strips:
        offsets.append(at)
        at += len(strip)
    entries[places] = (4, offsets)
    directory, extra = b"", b""
    for tag in sorted(entries):
        kind, values = entries[tag]
        data = struct.pack(f"{order}{len(values)}{lengths[kind][0]}", *values)
        if len(data) > 4:
            field = struct.pack(order + "I", size + len(extra))
            extra += data
        else:
            field = data.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + field
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(entries)) + directory + \
                              b"\0" * 4 + extra + b"".join(strips)


def tags(bits, photometric, channels, **more):
    names = dict(
    compression=259,
    predictor=317,
    planar=284,
    extra=338,
    colors=320,
    fill=266,
     format=339)
    base = {
    256: (
        4, [WIDTH]), 257: (
            4, [HEIGHT]), 258: (
                3, [bits] * channels), 259: (
                    3, [1]), 262: (
                        3, [photometric]), 277: (
                            3, [channels]), 278: (
                                4, [HEIGHT])}
    return {**base, **{names[name]: (3, value) for name, value in more.items()}}


def tiffs():
    rgb = picture()
    image = Image.fromarray(rgb)
    for name, compression in [("raw", None), ("lzw", "tiff_lzw"), ("deflate", "tiff_adobe_deflate"),
                              ("packbits", "packbits")]:
        yield f"rgb8-{name}.tif", saved(image, "TIFF", compression=compression)
    yield "rgb8-lzw-predictor.tif", saved(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    yield "gray8.tif", saved(image.convert("L"), "TIFF")
    yield "black-and-white.tif", saved(image.convert("L").convert("1"), "TIFF")
    yield "fax4.tif", saved(image.convert("L").convert("1"), "TIFF", compression="group4")
    data = saved(Image.fromarray(picture(32, 24)), "TIFF", compression="jpeg", quality=90)
    yield "jpeg-inside.tif", data
    yield "palette8.tif", saved(image.quantize(40), "TIFF")
    yield "palette8-lzw.tif", saved(image.quantize(40), "TIFF", compression="tiff_lzw")
    colors = [PALETTE[i % 16][c] * 257 for c in range(3) for i in range(16)]
    yield "palette4.tif", tiff(tags(4, 3, 1, colors=colors), [b"".join(packed(indices(4), 4))])
    yield "cmyk.tif", saved(Image.frombytes("CMYK", image.size, np.concatenate(
        [255 - rgb, indices(8)[..., None].astype(np.uint8) // 2], -1).tobytes()), "TIFF")
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.frombytes("L", image.size, indices(8).astype(np.uint8).tobytes()))
    yield "rgba8.tif", saved(alpha, "TIFF")
    associated = np.array(alpha)
    associated[..., :3] = associated[..., :3] * (associated[..., 3:] / 255)
    yield "rgba8-associated.tif", tiff(tags(8, 2, 4, extra=[1]), [associated.tobytes()])
    yield "gray8-alpha.tif", saved(alpha.convert("LA"), "TIFF")
    for order, name in [("<", "little"), (">", "big")]:
        gray16 = (indices(8) * 256 + 255 - indices(8)).astype(order + "u2")
        yield f"gray16-{name}.tif", tiff(tags(16, 1, 1), [gray16.tobytes()], order)
        rgb16 = (rgb.astype(np.uint32) * 256 + 255 - rgb).astype(order + "u2")
        yield f"rgb16-{name}.tif", tiff(tags(16, 2, 3), [rgb16.tobytes()], order)
    rgba16 = np.concatenate([rgb16, gray16[..., None]], -1)
    yield "rgba16.tif", tiff(tags(16, 2, 4, extra=[2]), [rgba16.astype(">u2").tobytes()], ">")
    for bits in (1, 2, 4, 8):
        data = tiff(tags(bits, 0, 1), [b"".join(packed(indices(bits), bits))])
        yield f"gray{bits}-inverted.tif", data
        if bits in (2, 4):
            yield f"gray{bits}.tif", tiff(tags(bits, 1, 1), [b"".join(packed(indices(bits), bits))])
    yield "planar.tif", tiff(tags(8, 2, 3, planar=[2]), [rgb[..., c].tobytes() for c in range(3)])
    strips = [zlib.compress(rgb[top:top + 4].tobytes()) for top in range(0, HEIGHT, 4)]
    yield "strips.tif", tiff({**tags(8, 2, 3, compression=[8]), 278: (4, [4])}, strips)
    padded = np.zeros((16, 32, 3), np.uint8)
    padded[:HEIGHT, :WIDTH] = rgb
    tiles = [zlib.compress(padded[:, left:left + 16].tobytes()) for left in (0, 16)]
    tiled = {k: v for k, v in tags(8, 2, 3, compression=[8]).items() if k != 278}
    yield "tiles.tif", tiff({**tiled, 322: (3, [16]), 323: (3, [16])}, tiles)
    pages = [image, Image.fromarray(picture(seed=1))]
    yield "pages.tif", saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])


# GIF

def gifs():
    image = Image.fromarray(picture()).quantize(30)
    plain = saved(image, "GIF", interlace=0)
    yield "plain.gif", plain
    yield "interlaced.gif", saved(image, "GIF", interlace=1)
    yield "clear.gif", saved(image, "GIF", transparency=int(np.array(image)[3, 4]))
    gray = Image.fromarray(picture()).convert("L")
    yield "gray.gif", saved(gray, "GIF")
    frames = [image, Image.fromarray(picture(seed=1)).quantize(30)]
    yield "animated.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for name, clear, background in [("", None, 0), ("-background", None, 3), ("-clear", 2, 3)]:
        options = {} if clear is None else dict(transparency=clear)
        part = bytearray(saved(image, "GIF", **options))
        # A larger canvas around the frame, which is moved from its corner.
        part[6:10] = struct.pack("<HH", WIDTH + 6, HEIGHT + 5)
        part[11] = background
        at = bytes(part).index(b"\x2c\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT))
        part[at + 1:at + 5] = struct.pack("<HH", 4, 3)
        yield f"part{name}.gif", bytes(part)
    whole = bytearray(plain)
    # A smaller canvas than the frame.
    whole[6:10] = struct.pack("<HH", WIDTH - 4, HEIGHT - 3)
    yield "beyond.gif", bytes(whole)
    # What Pillow passes over, and what it does without.
    screen = 13 + (3 << ((plain[10] & 7) + 1))
    yield "junk-between.gif", plain[:screen] + b"junk" + plain[screen:]
    yield "long-control.gif", plain[:screen] + b"!\xf9\6\0\0\0\0\0\0\0" + plain[screen:]
    data = plain[:10] + bytes([plain[10] & 0x7f]) + plain[11:13] + plain[screen:]
    yield "without-palette.gif", data


# PNM

def pnms():
    rgb, size = picture(), b" %d\n%d " % (WIDTH, HEIGHT)
    gray = rgb[..., 0]
    def words(samples):
        return b" ".join(b"%d" % sample for sample in samples.reshape(-1))

    yield "gray.pgm", b"P5" + size + b"255\n" + gray.tobytes()
    yield "rgb.ppm", b"P6\n# a comment\n" + size + b"255\n" + rgb.tobytes()
    # The last number has one digit: cut short, another would be a smaller one.
    yield "gray-plain.pgm", b"P2" + size + b"255\n" + words(gray)[:-3].rstrip() + b" 7"
    yield "rgb-plain.ppm", b"P3" + size + b"255\n" + words(rgb)[:-3].rstrip() + b" 7\n"
    yield "gray-to-100.pgm", b"P5" + size + b"100\n" + (gray // 3).tobytes()
    yield "rgb-to-100.ppm", b"P6" + size + b"100\n" + (rgb // 3).tobytes()
    gray16 = (indices(8) * 200 + 3).astype(">u2")
    rgb16 = (rgb.astype(np.uint32) * 256 + 255 - rgb).astype(">u2")
    yield "gray16.pgm", b"P5" + size + b"65535\n" + gray16.tobytes()
    yield "rgb16.ppm", b"P6" + size + b"65535\n" + rgb16.tobytes()
    yield "rgb16-to-1000.ppm", b"P6" + size + b"1000\n" + (rgb16 % 1001).astype(">u2").tobytes()
    bits = indices(1)
    yield "bits.pbm", b"P4" + size[:-1] + b"\n" + b"".join(packed(bits, 1))
    yield "bits-plain.pbm", b"P1" + size + words(bits)


# Samples of more than 8 bits, and the kinds of TIFF that GeoTIFFs, microscopes and scanners write

def levels(samples, window):
    """Levels of values, of which those of a window become 0 to 255; NaN is 0."""
    low, high = window
    with np.errstate(invalid="ignore"):
        scaled = np.floor((samples.astype(np.float64) - low) * 255 / (high - low) + 0.5)
    return np.nan_to_num(scaled.clip(0, 255), nan=0).astype(np.uint8)


def as_rgb(samples):
    """[height, width, 3] of gray, gray with opacity, RGB, or more bands."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    return samples[..., :3] if samples.shape[2] >= 3 else samples[..., :1].repeat(3, 2)


def written(samples, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, samples, **{"photometric": "minisblack", "metadata": None, **options})
    return out.getvalue()


def deep_images():
    """Name, file, window or None for the whole range, and the pixels."""
    full, thermal = (0, 65535), (51241, 52181)
    for name, data in pngs():
        if "16" in name:
            samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if samples.ndim == 3:
                samples = samples[..., [2, 1, 0]] if samples.shape[2] > 2 else samples
            # What a file says of opacity shows in the number of channels that OpenCV reads.
            yield name, data, None, levels(as_rgb(samples), full)
    warm = (indices(8) * 4 + 51200).astype(np.uint16)
    yield "thermal.png", png(warm[..., None].astype(np.uint32), 16, 0), thermal, levels(
        as_rgb(warm), thermal)
    colors = picture().astype(np.uint16) * 3 + 1000
    yield "window-rgb16.png", png(colors.astype(np.uint32), 16, 2), (1100, 1700), levels(
        colors, (1100, 1700))
    size = b" %d\n%d " % (WIDTH, HEIGHT)
    gray16 = indices(8) * 200 + 3
    data = b"P5" + size + b"65535\n" + gray16.astype(">u2").tobytes()
    yield "gray16.pgm", data, None, levels(as_rgb(gray16), full)
    twelve = (indices(8) * 16 + 9) % 4096
    data = b"P5" + size + b"4095\n" + twelve.astype(">u2").tobytes()
    yield "gray16-of-4095.pgm", data, None, levels(as_rgb(twelve), (0, 4095))
    yield "window-of-4095.pgm", data, (400, 3000), levels(as_rgb(twelve), (400, 3000))
    for order, name in [("<", "little"), (">", "big")]:
        gray16 = (indices(8) * 256 + 255 - indices(8)).astype(order + "u2")
        yield f"gray16-{name}.tif", tiff(tags(16, 1, 1), [gray16.tobytes()], order), None, levels(
            as_rgb(gray16), full)
        rgb16 = (picture().astype(np.uint32) * 256 + 255 - picture()).astype(order + "u2")
        yield f"rgb16-{name}.tif", tiff(tags(16, 2, 3), [rgb16.tobytes()], order), None, levels(
            rgb16, full)
    rgba16 = np.concatenate([rgb16, gray16[..., None]], -1).astype(">u2")
    yield "rgba16.tif", tiff(tags(16, 2, 4, extra=[2]), [rgba16.tobytes()], ">"), None, levels(
        rgb16, full)
    opacity = (indices(8) * 250 + 700).astype(np.float64)[..., None]
    whole = rgb16.astype(np.float64) * opacity // 65535
    data = np.concatenate([whole, opacity], -1).astype("<u2").tobytes()
    yield "rgba16-associated.tif", tiff(tags(16, 2, 4, extra=[1]), [data]), None, levels(
        whole * 65535 / opacity, full)
    yield "gray16-inverted.tif", tiff(tags(16, 0, 1), [gray16.tobytes()], ">"), None, \
        255 - levels(as_rgb(gray16), full)
    for bits in (10, 12, 14):
        samples = indices(bits) * 5 % (1 << bits)
        data = tiff(tags(bits, 1, 1), [b"".join(packed(samples, bits))])
        yield f"gray{bits}.tif", data, None, levels(as_rgb(samples), (0, (1 << bits) - 1))
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    heights = np.sin(x / 3) * 900 + y * 20 - 100
    heights[2, 3], heights[4, 5], heights[6, 7] = np.nan, np.inf, -np.inf
    whole = np.nan_to_num(heights, nan=0, posinf=900, neginf=-900)
    window = (-800, 900.5)
    stripes = dict(rowsperstrip=5)
    tiles = dict(tile=(16, 16))
    zlib_ = dict(compression="zlib")
    for name, samples, options in [
        ("float16", heights.astype(np.float16), {}),
        ("float32", heights.astype(np.float32), stripes),
        ("float32-big", heights.astype(np.float32), dict(byteorder=">", **zlib_)),
        ("float32-lzw", heights.astype(np.float32), dict(compression="lzw", **stripes)),
        ("float32-predicted", heights.astype(np.float32), dict(predictor=3, **zlib_, **tiles)),
        ("float16-predicted", heights.astype(np.float16), dict(predictor=3, **zlib_)),
        ("float64-predicted", heights, dict(predictor=3, byteorder=">", **zlib_, **stripes)),
        ("float64", heights, dict(bigtiff=True)),
        ("int8", (whole / 10).astype(np.int8), {}),
        ("int16", whole.astype(np.int16), dict(predictor=2, **zlib_)),
        ("int16-big", whole.astype(np.int16), dict(byteorder=">", compression="packbits")),
        ("int32", whole.astype(np.int32) * 1, dict(predictor=2, byteorder=">", **zlib_)),
        ("uint32", (whole + 1000).astype(np.uint32), dict(predictor=2, compression="lzw")),
        ("uint64", (whole + 1000).astype(np.uint64), dict(predictor=2, **zlib_, **tiles)),
        ("uint16-predicted", (whole + 1000).astype(np.uint16),
         dict(predictor=2, byteorder=">", **zlib_, **tiles)),
        ("bands", np.stack([whole + 10 * band for band in range(5)], -1).astype(np.int16),
         dict(planarconfig="contig", predictor=2, **zlib_)),
        ("bands-planar", np.stack([whole + 10 * band for band in range(5)]).astype(np.float32),
         dict(planarconfig="separate", **stripes)),
    ]:
        data = written(samples, **options)
        # Read back, so that two programs agree on what the file holds.
        read = tifffile.imread(io.BytesIO(data))
        read = np.moveaxis(read, 0, -1) if read.ndim == 3 and read.shape[0] == 5 else read
        yield f"{name}.tif", data, window, levels(as_rgb(read), window)
    none = whole.astype(np.float32)
    none[3, 4:9] = -9999
    data = written(none, extratags=[(42113, "s", 0, "-9999", True)])
    yield "no-data.tif", data, (-20000, 900), levels(
        as_rgb(np.where(none == -9999, np.nan, none)), (-20000, 900))


def more_tiffs():
    """Kinds of 8 bits that other programs write; with the pixels where Pillow does not read them."""
    rgb = picture()
    options = dict(photometric="rgb")
    zlib_ = dict(compression="zlib", predictor=2)
    yield "big.tif", written(rgb, bigtiff=True, **zlib_, **options), None
    # Pillow knows no such file.
    yield "big-endian-big.tif", written(rgb, bigtiff=True, byteorder=">", rowsperstrip=3,
                                        **options), Image.fromarray(rgb)
    yield "big-tiles.tif", written(rgb, bigtiff=True, tile=(16, 16), **zlib_, **options), None
    planes = np.moveaxis(rgb, -1, 0)
    yield "planar-tiles.tif", written(planes, planarconfig="separate", tile=(16, 16), **zlib_,
                                      **options), None
    yield "zstd.tif", written(rgb, compression="zstd", predictor=2, rowsperstrip=5,
                              **options), Image.fromarray(rgb)
    yield "packbits.tif", written(rgb, compression="packbits", **options), None
    inks = np.concatenate([255 - rgb, indices(8)[..., None].astype(np.uint8) // 2], -1)
    yield "cmyk-planar.tif", written(np.moveaxis(inks, -1, 0), photometric="separated",
                                     planarconfig="separate", **zlib_), Image.frombytes(
        "CMYK", (WIDTH, HEIGHT), inks.tobytes()).convert("RGB")
    cmyk16 = inks.astype(np.uint16) * 257
    yield "cmyk16.tif", written(cmyk16, photometric="separated"), None
    gray = rgb[..., 0]
    gray_alpha = np.stack([gray, indices(8).astype(np.uint8)], -1)
    yield "gray8-lzw.tif", written(gray, compression="lzw", predictor=2), None
    yield "gray8-alpha-tiles.tif", written(gray_alpha, extrasamples=["unassalpha"],
                                           planarconfig="contig", tile=(16, 16), **zlib_), None
    yield "rgbx-predicted.tif", written(
        np.concatenate([rgb, rgb[..., :2]], -1), extrasamples=["unspecified"] * 2, **zlib_,
        **options), None
    data = tiff(tags(1, 1, 1, fill=[2]), [b"".join(
        bytes(int(f"{byte:08b}"[::-1], 2) for byte in row) for row in packed(indices(1), 1))])
    yield "gray1-reversed.tif", data, None
    palette = [PALETTE[i][c] * 257 for c in range(3) for i in range(256)]
    yield "palette-tiles.tif", written(indices(8).astype(np.uint8), photometric="palette",
                                       colormap=np.array(palette, np.uint16).reshape(3, 256),
                                       tile=(16, 16), **zlib_), None
    ycc = np.array(Image.fromarray(rgb).convert("YCbCr"))
    data = tiff({**tags(8, 6, 3), 530: (3, [1, 1])}, [ycc.tobytes()])
    yield "ycc-lossy.tif", data, Image.fromarray(ycc, "YCbCr").convert("RGB")
    # Units of 2×2 pixels: four of luma, then the chroma that they share.
    padded = np.pad(ycc, ((0, 0), (0, 1), (0, 0)), "edge")
    units = np.concatenate([padded[::2, ::2, :1], padded[::2, 1::2, :1], padded[1::2, ::2, :1],
                            padded[1::2, 1::2, :1], padded[::2, ::2, 1:]], -1)
    shared = padded.copy()
    shared[..., 1:] = padded[::2, ::2, 1:].repeat(2, 0).repeat(2, 1)
    yield "ycc-sampled-lossy.tif", tiff({**tags(8, 6, 3), 530: (3, [2, 2])}, [units.tobytes()]), \
        Image.fromarray(shared[:, :WIDTH].copy(), "YCbCr").convert("RGB")
    wide = picture(37, 29)
    def jpeg():
        # A new one for each: tifffile adds to it.
        return dict(compression="jpeg", compressionargs=dict(level=90))

    yield "jpeg-rgb-lossy.tif", written(wide, compression="jpeg", compressionargs=dict(
        level=90, outcolorspace="rgb"), **options), None
    yield "jpeg-ycc-lossy.tif", written(wide, photometric="ycbcr", rowsperstrip=16, **jpeg()), None
    yield "jpeg-tiles-lossy.tif", written(wide, photometric="ycbcr", tile=(16, 16), **jpeg()), None
    yield "jpeg-gray-lossy.tif", written(wide[..., 0], **jpeg()), None
    yield "jpeg-tables-lossy.tif", saved(Image.fromarray(wide), "TIFF", compression="jpeg"), None


def turned():
    image = Image.fromarray(picture(11, 6))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        yield f"exif{orientation}.jpg", saved(image, "JPEG", quality=90, subsampling=0, exif=exif)
        yield f"exif{orientation}.png", saved(image, "PNG", exif=exif)
        yield f"exif{orientation}.webp", saved(image, "WEBP", lossless=True, exif=exif)
        data = saved(image, "TIFF", exif=exif, compression="tiff_adobe_deflate")
        yield f"exif{orientation}.tif", data


def refused():
    """Name, file, and a part of the reason with which scrl-prep refuses it."""
    rgb = picture()
    gray = rgb[..., 0]
    yield "float.tif", written(gray.astype(np.float32)), "float32 samples need --levels MIN..MAX"
    yield "signed.tif", written(gray.astype(np.int16)), "int16 samples need --levels MIN..MAX"
    yield "lerc.tif", tiff(tags(8, 1, 1, compression=[34887]), [gray.tobytes()]), "LERC compression is not supported"
    yield "lzma.tif", tiff(tags(8, 1, 1, compression=[34925]), [gray.tobytes()]), "LZMA compression is not supported"
    yield "complex.tif", written(gray.astype(np.complex64)), "a complex number is not supported"
    yield "lab.tif", written(rgb, photometric="cielab"), "CIE Lab is not supported"
    fax = Image.fromarray(rgb).convert("1")
    yield "fax3.tif", saved(fax, "TIFF", compression="group3"), "group 3 compression"


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(
        __file__).parent.parent / "preprocess/tests/goldens/decode")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    expected, places, index = b"", {}, []
    deep = {name: case for name, *case in deep_images()}

    def add(name, data, exif=False, image=None, window=None):
        nonlocal expected
        (out / name).write_bytes(data)
        if image is None:
            image = Image.open(io.BytesIO(data))
            image.load()
            image = ImageOps.exif_transpose(image) if exif else image
            image = image.convert("RGB")
        pixels = image.tobytes()
        if pixels not in places:
            places[pixels] = len(expected)
            expected += pixels
        # 16-bit BMP: from five bits to eight Pillow rounds down, others to the nearest.
        # PNM of another range: Pillow rounds halves to even, others up.
        rounded = name.startswith(("lossy", "rgb555", "rgb565")) or "-to-" in name
        lossy = name.endswith(".jpg") or "-lossy" in name or "jpeg-inside" in name or rounded
        index.append(
    dict(
        file=name,
        at=places[pixels],
        width=image.width,
        height=image.height,
        lossy=lossy,
         exif=exif,
        **({"levels": f"{window[0]}..{window[1]}"} if window else {})))

    for kind in (pngs, jpegs, webps, bmps, tiffs, gifs, pnms):
        for name, data in kind():
            # Those of more than 8 bits follow, with levels of their own.
            if name not in deep:
                add(name, data)
    for name, (data, window, pixels) in deep.items():
        add(name, data, image=Image.fromarray(np.ascontiguousarray(pixels)), window=window)
    for name, data, image in more_tiffs():
        add(name, data, image=image)
    for name, data in turned():
        add(name, data, True)
    for name, data, reason in refused():
        (out / name).write_bytes(data)
        index.append(dict(file=name, refused=reason))
    (out / "expected.rgb").write_bytes(expected)
    lines = ",\n".join("  " + json.dumps(entry) for entry in index)
    (out / "index.json").write_text(f"[\n{lines}\n]\n")
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{len(index)} files in {out}, {size} bytes")


if __name__ == "__main__":
    main()
