"""Width, height and duration of a file, without decoding it: hostile files give None, no error and no long wait."""

import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from storage.boxes import DURATION_S_MAX, SIDE_MAX, Reading, read_mp4, read_webm

READ_BYTES_MAX = 8 * 1024 * 1024
"""Read of one file in all, whatever it says about itself."""
READS_MAX = 50_000
SVG_HEAD_BYTES = 4096

_IMAGES = frozenset(f"image/{name}" for name in ("png", "jpeg", "gif", "webp", "avif", "heic", "bmp", "tiff", "jp2"))
_AUDIO = frozenset(f"audio/{name}" for name in ("mpeg", "mp3", "wav", "x-wav", "flac", "ogg", "opus", "aiff"))
_MP4 = frozenset({"video/mp4", "video/quicktime", "audio/mp4", "audio/x-m4a", "video/3gpp"})
_WEBM = frozenset({"video/webm", "audio/webm", "video/x-matroska"})
_SVG_TAG = re.compile(rb"<(?:svg:)?svg\b([^>]*)>", re.IGNORECASE)
_SVG_SIDE = r"""\s{}\s*=\s*["']\s*([0-9]{{1,7}}(?:\.[0-9]+)?)(?:px)?\s*["']"""
_SVG_WIDTH = re.compile(_SVG_SIDE.format("width").encode())
_SVG_HEIGHT = re.compile(_SVG_SIDE.format("height").encode())


@dataclass(frozen=True, slots=True)
class Measures:
    """`width` and `height` in pixels as shown upright, `duration_s` in seconds; None where the file does not tell."""

    width: int | None = None
    height: int | None = None
    duration_s: float | None = None


def measure(source: bytes | bytearray | memoryview | Path, content_type: str) -> Measures:
    """Measure a file of a known type, in memory or on disk. Never raises; reads at most READ_BYTES_MAX."""
    reader = _READERS.get(content_type)
    if reader is None:
        return Measures()
    try:
        with source.open("rb", buffering=0) if isinstance(source, Path) else io.BytesIO(source) as raw:
            width, height, duration_s = reader(cast("BinaryIO", Bounded(cast("BinaryIO", raw))))
    except Exception:  # noqa: BLE001 - libraries raise anything on hostile files, and a file without measures is fine
        return Measures()
    return (
        Measures(_side(width), _side(height), duration_s)
        if _side(width) and _side(height)
        else Measures(duration_s=duration_s)
    )


class Bounded(io.RawIOBase):
    """A file that refuses to be read for ever."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._bytes_left = READ_BYTES_MAX
        self._reads_left = READS_MAX
        self.size = raw.seek(0, io.SEEK_END)
        raw.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        wanted = self.size if size < 0 else min(size, self.size)
        self._reads_left -= 1
        data = self._raw.read(min(wanted, self._bytes_left + 1))
        self._bytes_left -= len(data)
        if self._bytes_left < 0 or self._reads_left < 0:
            raise OSError("the file's headers are too long")
        return data

    def readinto(self, room: memoryview, /) -> int:  # type: ignore[override] # BufferedReader passes memoryviews
        data = self.read(len(room))
        room[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise OSError("the file's headers are too long")
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()


def _image(file: BinaryIO) -> Reading:
    import imagesize  # type: ignore[import-untyped]  # noqa: PLC0415 - loaded at the first image

    width, height = imagesize.get(file)
    return int(width), int(height), None


def _svg(file: BinaryIO) -> Reading:
    # Read by hand: an XML parser would expand entities.
    tag = _SVG_TAG.search(file.read(SVG_HEAD_BYTES))
    width, height = (expression.search(tag[1]) if tag else None for expression in (_SVG_WIDTH, _SVG_HEIGHT))
    if width is None or height is None:
        return None, None, None
    return round(float(width[1])), round(float(height[1])), None


def _audio(file: BinaryIO) -> Reading:
    from tinytag import TinyTag  # noqa: PLC0415 - loaded at the first audio file

    duration_s = TinyTag.get(file_obj=file, tags=False).duration
    if duration_s is None or not math.isfinite(duration_s) or not 0 < duration_s < DURATION_S_MAX:
        return None, None, None
    return None, None, float(duration_s)


def _mp4(file: BinaryIO) -> Reading:
    return read_mp4(file, cast("Bounded", file).size)


def _webm(file: BinaryIO) -> Reading:
    return read_webm(file, cast("Bounded", file).size)


def _side(value: int | None) -> int | None:
    return value if value is not None and 0 < value < SIDE_MAX else None


_READERS = (
    dict.fromkeys(_IMAGES, _image)
    | dict.fromkeys(_AUDIO, _audio)
    | dict.fromkeys(_MP4, _mp4)
    | dict.fromkeys(_WEBM, _webm)
    | {"image/svg+xml": _svg}
)
