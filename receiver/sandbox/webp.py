"""WebP, lossless: a small encoder for the VP8L bitstream (RFC 9649).

Fixed prefix codes and run lengths only, which does well for drawn pictures: a run of equal pixels is one literal and
one copy from the left.
"""

import struct
from itertools import groupby

from receiver.sandbox.pictures import Picture

RUN_MAX = 4096  # longest copy that a length prefix can say
_GREEN_SHORT = 232  # 232 codes of 8 bits and 48 of 9 fill the code space for 256 greens and 24 length prefixes
_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9)  # in which a code-length code tells its lengths
_MIRROR = tuple(int(f"{value:08b}"[::-1], 2) for value in range(256))


class Bits:
    """Bits, least significant first."""

    def __init__(self) -> None:
        self._value = 0
        self._count = 0
        self._whole = bytearray()

    def put(self, value: int, count: int) -> None:
        self._value |= value << self._count
        self._count += count
        while self._count >= 8:
            self._whole.append(self._value & 255)
            self._value >>= 8
            self._count -= 8

    def done(self) -> bytes:
        return bytes(self._whole) + (bytes((self._value,)) if self._count else b"")


def webp(picture: Picture) -> bytes:
    bits = Bits()
    bits.put(0x2F, 8)
    bits.put(picture.width - 1, 14)
    bits.put(picture.height - 1, 14)
    bits.put(0, 1)  # no alpha
    bits.put(0, 3)  # version
    bits.put(0, 1)  # no transform
    bits.put(0, 1)  # no colour cache
    bits.put(0, 1)  # one set of prefix codes for the whole picture
    _codes(bits)
    _pixels(bits, picture.pixels)
    body = bits.done()
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body + b"\x00" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _codes(bits: Bits) -> None:
    _lengths(bits, [8] * _GREEN_SHORT + [9] * 48)
    _lengths(bits, [8] * 256)  # red
    _lengths(bits, [8] * 256)  # blue
    _single(bits, 255)  # alpha, always opaque: a code of no bits
    _single(bits, 1)  # distance, always the pixel to the left


def _lengths(bits: Bits, lengths: list[int]) -> None:
    """A prefix code told by its lengths, 8 and 9: these are told in a code of their own, of one bit each."""
    used = sorted(set(lengths))
    bits.put(0, 1)  # not a simple code
    bits.put(len(_ORDER) - 4, 4)
    for length in _ORDER:
        bits.put(1 if length in used else 0, 3)
    bits.put(0, 1)  # all symbols are told
    for length in lengths:
        if len(used) > 1:  # a code with one symbol takes no bits
            bits.put(used.index(length), 1)


def _single(bits: Bits, symbol: int) -> None:
    bits.put(1, 1)  # simple code
    bits.put(0, 1)  # of one symbol
    bits.put(1, 1)  # told in 8 bits
    bits.put(symbol, 8)


def _pixels(bits: Bits, pixels: bytes) -> None:
    for pixel, group in groupby(zip(pixels[::3], pixels[1::3], pixels[2::3], strict=True)):
        red, green, blue = pixel
        _green(bits, green)
        bits.put(_MIRROR[red], 8)
        bits.put(_MIRROR[blue], 8)
        left = sum(1 for _ in group) - 1
        while left > 0:
            run = min(left, RUN_MAX)
            _run(bits, run)
            left -= run


def _run(bits: Bits, length: int) -> None:
    """A copy from the left: length prefix, its extra bits, and a distance that needs no bits."""
    if length <= 4:
        _green(bits, 256 + length - 1)
        return
    high = (length - 1).bit_length() - 1
    second = ((length - 1) >> (high - 1)) & 1
    _green(bits, 256 + 2 * high + second)
    bits.put((length - 1) & ((1 << (high - 1)) - 1), high - 1)


def _green(bits: Bits, symbol: int) -> None:
    """Canonical codes, written from their most significant bit."""
    if symbol < _GREEN_SHORT:
        bits.put(_MIRROR[symbol], 8)
    else:
        code = 2 * _GREEN_SHORT + symbol - _GREEN_SHORT
        bits.put(_MIRROR[code >> 1] | (code & 1) << 8, 9)
