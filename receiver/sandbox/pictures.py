"""Landscapes: hills under a sky, drawn from a seed with nothing but the standard library."""

import colorsys
import math
import random
import struct
import zlib
from dataclasses import dataclass

SIDE_MAX = 2048  # wider pictures take seconds to draw


@dataclass(frozen=True, slots=True)
class Picture:
    """`pixels` are rows of RGB bytes, top to bottom."""

    width: int
    height: int
    pixels: bytes


def landscape(seed: int, width: int = 512, height: int = 512) -> Picture:
    """Drawn in columns, since a hill is a column's slice, then turned into rows."""
    rng = random.Random(seed)
    hue = rng.random()
    sky = _gradient(_rgb(hue, 0.65, 0.35), _rgb(hue + 0.12, 0.45, 1.0), height)
    hills = [
        _gradient(
            _rgb(hue + 0.5 + 0.04 * depth, 0.5, 0.62 - 0.17 * depth),
            _rgb(hue + 0.55 + 0.04 * depth, 0.7, 0.3 - 0.08 * depth),
            height,
        )
        for depth in range(3)
    ]
    curves = [_curve(rng, width, height, 0.5 + 0.16 * depth) for depth in range(3)]
    sun = (width * rng.uniform(0.2, 0.8), height * rng.uniform(0.15, 0.4), min(width, height) * rng.uniform(0.07, 0.14))
    glow = bytes(_rgb(hue + 0.12, 0.15, 1.0)) * height
    columns = [_column(x, sky, glow, sun, hills, curves) for x in range(width)]
    return Picture(width, height, _turned(columns, width, height))


def mask(seed: int, width: int = 512, height: int = 512) -> Picture:
    """White disc on black, as a segmentation model would answer."""
    rng = random.Random(seed)
    x, y, r = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65), min(width, height) * 0.3
    black, white = bytes(3 * height), b"\xff" * (3 * height)
    columns = [_disc(black, white, at, (x, y, r)) for at in range(width)]
    return Picture(width, height, _turned(columns, width, height))


def depth(seed: int, width: int = 512, height: int = 512) -> Picture:
    """Hills in greys, the nearer the lighter."""
    rng = random.Random(seed)
    greys = [bytes((60 + 60 * level,)) * (3 * height) for level in range(3)]
    curves = [_curve(rng, width, height, 0.35 + 0.2 * level) for level in range(3)]
    void = bytes((12,)) * (3 * height)
    columns = [_column(x, void, void, (0, 0, 0), greys, curves) for x in range(width)]
    return Picture(width, height, _turned(columns, width, height))


def png(picture: Picture) -> bytes:
    """RFC 2083: 8-bit RGB, every row predicted from the one above, so that gradients compress."""
    stride = picture.width * 3
    rows = [picture.pixels[at : at + stride] for at in range(0, len(picture.pixels), stride)]
    raw = b"".join(b"\x00" + row for row in rows)
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _gradient(top: tuple[int, int, int], bottom: tuple[int, int, int], height: int) -> bytes:
    last = max(1, height - 1)
    return bytes(top[c] + (bottom[c] - top[c]) * y // last for y in range(height) for c in range(3))


def _curve(rng: random.Random, width: int, height: int, level: float) -> list[int]:
    waves = [(rng.uniform(0.02, 0.07) / n, rng.uniform(0.7, 1.6) * n, rng.uniform(0, 6.28)) for n in (1, 2, 4)]
    return [
        min(height, max(0, int(height * (level + sum(a * math.sin(f * 6.28 * x / width + p) for a, f, p in waves)))))
        for x in range(width)
    ]


def _column(
    x: int, sky: bytes, glow: bytes, sun: tuple[float, float, float], hills: list[bytes], curves: list[list[int]]
) -> bytes:
    column = _disc(sky, glow, x, sun)
    for hill, curve in zip(hills, curves, strict=True):
        column = column[: curve[x] * 3] + hill[curve[x] * 3 :]
    return column


def _disc(outside: bytes, inside: bytes, x: int, disc: tuple[float, float, float]) -> bytes:
    centre_x, centre_y, radius = disc
    reach = radius**2 - (x - centre_x) ** 2
    if reach <= 0:
        return outside
    top, bottom = int(centre_y - math.sqrt(reach)) * 3, int(centre_y + math.sqrt(reach)) * 3
    return outside[:top] + inside[top:bottom] + outside[bottom:]


def _turned(columns: list[bytes], width: int, height: int) -> bytes:
    rows = bytearray(width * height * 3)
    stride = width * 3
    for x, column in enumerate(columns):
        for channel in range(3):
            rows[x * 3 + channel :: stride] = column[channel::3]
    return bytes(rows)
