"""The MP4 container (ISO/IEC 14496-12) around one H.264 track, index first, so that it plays while it loads."""

import struct

TICKS = 1000  # per frame
MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def mp4(frames: list[bytes], *, sps: bytes, pps: bytes, side: int, frames_a_second: int) -> bytes:
    """One NAL unit a frame, of which only the first can be decoded alone."""
    samples = [struct.pack(">I", len(frame)) + frame for frame in frames]
    kind = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2avc1mp41")
    rate = frames_a_second * TICKS

    def index(offset: int) -> bytes:
        table = _table(samples, offset, _entry(sps, pps, side))
        return _movie(table, len(frames) * TICKS, rate, side)

    offset = len(kind) + len(index(0)) + 8
    return kind + index(offset) + _box(b"mdat", *samples)


def _box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def _full(name: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", flags), *parts)


def _movie(table: bytes, ticks: int, rate: int, side: int) -> bytes:
    header = _full(
        b"mvhd", struct.pack(">4IIHH8x", 0, 0, rate, ticks, 0x10000, 0x100, 0), MATRIX, bytes(24), struct.pack(">I", 2)
    )
    track = _full(
        b"tkhd",
        struct.pack(">5I8xHHHH", 0, 0, 1, 0, ticks, 0, 0, 0, 0),
        MATRIX,
        struct.pack(">II", side << 16, side << 16),
        flags=3,
    )
    media_header = _full(b"mdhd", struct.pack(">4IHH", 0, 0, rate, ticks, 0x55C4, 0))
    handler = _full(b"hdlr", struct.pack(">I4s12x", 0, b"vide"), b"VideoHandler\0")
    where = _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1)))
    info = _box(b"minf", _full(b"vmhd", bytes(8), flags=1), where, table)
    return _box(b"moov", header, _box(b"trak", track, _box(b"mdia", media_header, handler, info)))


def _entry(sps: bytes, pps: bytes, side: int) -> bytes:
    config = _box(
        b"avcC",
        bytes((1, *sps[1:4], 0xFF, 0xE1)),
        struct.pack(">H", len(sps)) + sps,
        struct.pack(">BH", 1, len(pps)) + pps,
    )
    picture = struct.pack(">6xH16xHHIIIH32xHh", 1, side, side, 0x480000, 0x480000, 0, 1, 24, -1)
    return _box(b"avc1", picture, config)


def _table(samples: list[bytes], offset: int, entry: bytes) -> bytes:
    count = len(samples)
    sizes = struct.pack(f">II{count}I", 0, count, *(len(sample) for sample in samples))
    return _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), entry),
        _full(b"stts", struct.pack(">III", 1, count, TICKS)),
        _full(b"stss", struct.pack(">II", 1, 1)),
        _full(b"stsc", struct.pack(">IIII", 1, 1, count, 1)),
        _full(b"stsz", sizes),
        _full(b"stco", struct.pack(">II", 1, offset)),
    )
