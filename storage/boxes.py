"""Size and duration of MP4/QuickTime and WebM/Matroska files, from their headers alone.

Sources: ISO/IEC 14496-12 (`moov`, `mvhd`, `tkhd`, `mehd`); RFC 8794 and RFC 9559 (EBML, Matroska).
"""

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO

BOXES_MAX = 4096
"""Boxes looked at in one file: a hostile one may hold millions of empty ones."""
DURATION_S_MAX = 10_000_000.0
SIDE_MAX = 1_000_000

Reading = tuple[int | None, int | None, float | None]
"""Width and height in pixels, duration in seconds; None where the file does not tell."""


def read_mp4(file: BinaryIO, size: int) -> Reading:
    """Read an MP4, M4A or QuickTime file of `size` bytes. May raise anything on a hostile file."""
    budget = [BOXES_MAX]
    width = height = 0
    header_at, duration_s = 0, None
    for kind, start, end in _boxes(file, 0, size, budget):
        if kind != b"moov":
            continue
        for inner, inner_start, inner_end in _boxes(file, start, end, budget):
            if inner == b"mvhd":
                duration_s = _movie_duration_s(_read(file, inner_start, 32), None)
                header_at = inner_start
            elif inner == b"mvex" and header_at and duration_s is None:
                duration_s = _fragments_duration_s(file, inner_start, inner_end, header_at, budget)
            elif inner == b"trak":
                sides = _track_sides(file, inner_start, inner_end, budget)
                width, height = max((width, height), sides, key=lambda pair: pair[0] * pair[1])
        break
    return _sane(width, height, duration_s)


def _boxes(file: BinaryIO, start: int, end: int, budget: list[int]) -> Iterator[tuple[bytes, int, int]]:
    """Boxes between two offsets: kind, start and end of what is inside."""
    while start + 8 <= end and budget[0] > 0:
        budget[0] -= 1
        size, kind = struct.unpack(">I4s", _read(file, start, 8))
        inside = start + 8
        if size == 1:
            size = int.from_bytes(_read(file, inside, 8), "big")
            inside += 8
        stop = end if size == 0 else start + size
        if stop < inside or stop > end:
            return
        yield kind, inside, stop
        start = stop


def _movie_duration_s(header: bytes, fragments: int | None) -> float | None:
    if header[0] == 1:
        timescale, duration = struct.unpack_from(">IQ", header, 20)
    else:
        timescale, duration = struct.unpack_from(">II", header, 12)
    if fragments is not None:
        duration = fragments
    unknown = duration in {0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}
    return None if unknown or not timescale else duration / timescale


def _fragments_duration_s(file: BinaryIO, start: int, end: int, header_at: int, budget: list[int]) -> float | None:
    for kind, inside, _ in _boxes(file, start, end, budget):
        if kind == b"mehd":
            wide = _read(file, inside, 1) == b"\x01"
            fragments = int.from_bytes(_read(file, inside + 4, 8 if wide else 4), "big")
            return _movie_duration_s(_read(file, header_at, 32), fragments)
    return None


def _track_sides(file: BinaryIO, start: int, end: int, budget: list[int]) -> tuple[int, int]:
    for kind, inside, stop in _boxes(file, start, end, budget):
        if kind == b"tkhd":
            header = _read(file, inside, min(stop - inside, 96))
            matrix_at = 52 if header[0] == 1 else 40
            a, b = struct.unpack_from(">ii", header, matrix_at)
            width, height = struct.unpack_from(">II", header, matrix_at + 36)
            sides = width >> 16, height >> 16
            # A quarter turn: players show it upright.
            return sides[::-1] if a == 0 and b != 0 else sides
    return 0, 0


def read_webm(file: BinaryIO, size: int) -> Reading:
    """Read a WebM or Matroska file of `size` bytes. May raise anything on a hostile file."""
    budget = [BOXES_MAX]
    width = height = 0
    scale, duration = 1_000_000, None
    for kind, start, end in _elements(file, 0, size, budget):
        if kind != _SEGMENT:
            continue
        for inner, inner_start, inner_end in _elements(file, start, end, budget):
            if inner == _CLUSTER:
                break
            if inner == _INFO:
                scale, duration = _segment_info(file, inner_start, inner_end, budget)
            elif inner == _TRACKS:
                for _, track_start, track_end in _elements(file, inner_start, inner_end, budget):
                    sides = _video_sides(file, track_start, track_end, budget)
                    width, height = max((width, height), sides, key=lambda pair: pair[0] * pair[1])
        break
    return _sane(width, height, None if duration is None else duration * scale / 1e9)


_SEGMENT, _CLUSTER, _INFO, _TRACKS = 0x18538067, 0x1F43B675, 0x1549A966, 0x1654AE6B
_TIMESTAMP_SCALE, _DURATION = 0x2AD7B1, 0x4489
_VIDEO, _PIXEL_WIDTH, _PIXEL_HEIGHT = 0xE0, 0xB0, 0xBA


def _elements(file: BinaryIO, start: int, end: int, budget: list[int]) -> Iterator[tuple[int, int, int]]:
    """EBML elements between two offsets: id, start and end of what is inside."""
    while start < end and budget[0] > 0:
        budget[0] -= 1
        head = _read(file, start, min(12, end - start))
        id_bytes = _vint_bytes(head[0])
        element = int.from_bytes(head[:id_bytes], "big")
        size_bytes = _vint_bytes(head[id_bytes])
        inside = start + id_bytes + size_bytes
        size = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
        # All ones: unknown, as live recordings have it; it ends with what it stands in.
        stop = end if size == (1 << 7 * size_bytes) - 1 else min(inside + size, end)
        yield element, inside, stop
        start = stop


def _vint_bytes(first: int) -> int:
    if not first:
        raise ValueError("no variable-size integer")
    return 9 - first.bit_length()


def _segment_info(file: BinaryIO, start: int, end: int, budget: list[int]) -> tuple[int, float | None]:
    scale, duration = 1_000_000, None
    for kind, inside, stop in _elements(file, start, end, budget):
        if kind == _TIMESTAMP_SCALE:
            scale = int.from_bytes(_read(file, inside, min(stop - inside, 8)), "big")
        elif kind == _DURATION:
            data = _read(file, inside, min(stop - inside, 8))
            duration = struct.unpack(">d" if len(data) == 8 else ">f", data)[0]
    return scale, duration


def _video_sides(file: BinaryIO, start: int, end: int, budget: list[int]) -> tuple[int, int]:
    for kind, inside, stop in _elements(file, start, end, budget):
        if kind == _VIDEO:
            sides = {
                inner: int.from_bytes(_read(file, at, min(until - at, 8)), "big")
                for inner, at, until in _elements(file, inside, stop, budget)
            }
            return sides.get(_PIXEL_WIDTH, 0), sides.get(_PIXEL_HEIGHT, 0)
    return 0, 0


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("the file ends early")
    return data


def _sane(width: int, height: int, duration_s: float | None) -> Reading:
    if duration_s is not None and not (math.isfinite(duration_s) and 0 < duration_s < DURATION_S_MAX):
        duration_s = None
    if not (0 < width < SIDE_MAX and 0 < height < SIDE_MAX):
        return None, None, duration_s
    return width, height, duration_s
