"""Video: a ball crossing an evening sky, as H.264 in an MP4, both written by hand.

Every macroblock is either raw samples (I_PCM) or skipped, the simplest stream that the standard (ITU-T H.264, baseline)
knows, which browsers and ffmpeg play. Only blocks that the ball touches are sent again.
"""

import random
from dataclasses import dataclass

from receiver.sandbox.mp4 import mp4

SIDE = 256  # pixels, a whole number of macroblocks
BLOCK = 16
BLOCKS = SIDE // BLOCK
FRAMES = 36
FRAMES_A_SECOND = 18
RADIUS = 28
FRAME_NUMBERS = 16  # frame_num has four bits
I_PCM = 25  # mb_type in an I slice; after the five of P in a P slice
SKY = ((76, 95, 165), (166, 100, 162))  # Y, Cb, Cr at the top and at the bottom before the seed moves the colours


class NalBits:
    """Bits, most significant first, with Exp-Golomb numbers and the samples of a block."""

    def __init__(self, header: int) -> None:
        self._bytes = bytearray((header,))
        self._value = 0
        self._count = 0

    def u(self, value: int, count: int) -> None:
        for shift in range(count - 1, -1, -1):
            self._value = self._value << 1 | (value >> shift & 1)
            self._count += 1
            if self._count == 8:
                self._bytes.append(self._value)
                self._value = self._count = 0

    def ue(self, *values: int) -> None:
        for value in values:
            length = (value + 1).bit_length()
            self.u(0, length - 1)
            self.u(value + 1, length)

    def samples(self, block: bytes) -> None:
        """Raw samples begin at a whole byte."""
        if self._count:
            self.u(0, 8 - self._count)
        self._bytes += block

    def done(self) -> bytes:
        """The NAL unit: stop bit, padding, and 3 between two zeros and a small byte, so that no start code appears."""
        self.u(1, 1)
        self.samples(b"")
        out, zeros = bytearray(), 0
        for byte in self._bytes:
            if zeros == 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(out)


@dataclass(frozen=True, slots=True)
class _Scene:
    """Y, Cb and Cr of every row of the sky, the ball's colour, and where it is in each frame."""

    rows: list[tuple[int, int, int]]
    ball: tuple[int, int, int]
    places: list[tuple[int, int]]


def video(seed: int) -> bytes:
    """An MP4 of two seconds, 256 x 256."""
    scene = _scene(seed)
    frames = [_first(scene)]
    frames += [_next(scene, number) for number in range(1, FRAMES)]
    return mp4(frames, sps=_sps(), pps=_pps(), side=SIDE, frames_a_second=FRAMES_A_SECOND)


def _scene(seed: int) -> _Scene:
    rng = random.Random(seed)
    shift = rng.randint(-30, 30)
    top, bottom = SKY
    rows = []
    for y in range(SIDE):
        luma, blue, red = (a + (b - a) * y // SIDE for a, b in zip(top, bottom, strict=True))
        rows.append((luma, blue + shift, red - shift))
    start, height = rng.randint(RADIUS, SIDE // 3), rng.randint(SIDE // 3, SIDE // 2)
    places = []
    for number in range(FRAMES):
        part = number / (FRAMES - 1)
        hop = int(height * 4 * part * (1 - part))
        places.append((int(start + part * (SIDE - RADIUS - start)), SIDE - RADIUS - hop))
    return _Scene(rows, (225, 90 + shift, 150), places)


def _sps() -> bytes:
    bits = NalBits(0x67)
    bits.u(66, 8)  # baseline
    bits.u(0xC0, 8)
    bits.u(30, 8)  # level 3
    bits.ue(0, 0, 2, 1)  # id, four bits of frame_num, output in decoding order, one reference
    bits.u(0, 1)
    bits.ue(BLOCKS - 1, BLOCKS - 1)
    bits.u(0b1100, 4)  # frames only, direct 8x8, no cropping, no VUI
    return bits.done()


def _pps() -> bytes:
    bits = NalBits(0x68)
    bits.ue(0, 0)
    bits.u(0, 2)  # CAVLC
    bits.ue(0, 0, 0)
    bits.u(0, 3)
    bits.ue(0, 0, 0)  # signed zeros read the same
    bits.u(0b100, 3)  # the slice says that nothing is deblocked
    return bits.done()


def _first(scene: _Scene) -> bytes:
    bits = NalBits(0x65)
    bits.ue(0, 7, 0)  # first block, I, parameter set
    bits.u(0, 4)
    bits.ue(0)
    bits.u(0, 2)
    bits.ue(0, 1)  # no change of the quantiser, no deblocking
    for block in range(BLOCKS * BLOCKS):
        bits.ue(I_PCM)
        bits.samples(_block(scene, 0, block))
    return bits.done()


def _next(scene: _Scene, number: int) -> bytes:
    bits = NalBits(0x41)
    bits.ue(0, 5, 0)  # first block, P, parameter set
    bits.u(number % FRAME_NUMBERS, 4)
    bits.u(0, 3)
    bits.ue(0, 1)
    skipped = 0
    moved = _touched(scene.places[number]) | _touched(scene.places[number - 1])
    for block in range(BLOCKS * BLOCKS):
        if block not in moved:
            skipped += 1
            continue
        bits.ue(skipped, 5 + I_PCM)
        bits.samples(_block(scene, number, block))
        skipped = 0
    if skipped:
        bits.ue(skipped)
    return bits.done()


def _touched(place: tuple[int, int]) -> set[int]:
    across, down = (range(max(0, (at - RADIUS) // BLOCK), min(BLOCKS - 1, (at + RADIUS) // BLOCK) + 1) for at in place)
    return {y * BLOCKS + x for y in down for x in across}


def _block(scene: _Scene, number: int, block: int) -> bytes:
    """256 samples of Y, 64 of Cb, 64 of Cr."""
    top, left = block // BLOCKS * BLOCK, block % BLOCKS * BLOCK
    centre_x, centre_y = scene.places[number]
    planes = [bytearray(), bytearray(), bytearray()]
    for y in range(top, top + BLOCK):
        reach = RADIUS**2 - (y - centre_y) ** 2
        half = int(reach**0.5) if reach > 0 else -1
        first = min(BLOCK, max(0, centre_x - half - left)) if half >= 0 else BLOCK
        last = max(first, min(BLOCK, centre_x + half - left)) if half >= 0 else BLOCK
        for plane, (sky, ball) in enumerate(zip(scene.rows[y], scene.ball, strict=True)):
            if plane == 0:
                planes[0] += bytes((sky,)) * first + bytes((ball,)) * (last - first) + bytes((sky,)) * (BLOCK - last)
            elif y % 2 == 0:
                a, b = first // 2, last // 2
                planes[plane] += bytes((sky,)) * a + bytes((ball,)) * (b - a) + bytes((sky,)) * (BLOCK // 2 - b)
    return bytes(planes[0] + planes[1] + planes[2])
