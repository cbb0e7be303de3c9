"""Files as recipes: made when somebody asks, the same each time, so that thousands of them need no memory."""

import hashlib
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from receiver.sandbox import pictures, sound, things
from receiver.sandbox.video import video
from receiver.sandbox.webp import webp

PIECE_BYTES = 64 * 1024
CACHE_BYTES_MAX = 64 * 1024 * 1024
FACTS_MAX = 20_000
CRC_BYTES_MAX = 128 * 1024  # CRC32C byte by byte takes a second for 5 MB; Google leaves other fields out, we this one
SIZE_MAX = 64 * 1024**3


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a file. `size` counts for `bytes` only, `width` and `height` for pictures."""

    kind: str
    seed: int = 0
    width: int = 512
    height: int = 512
    size: int = 0

    @property
    def content_type(self) -> str:
        return KINDS[self.kind][0]

    @property
    def ending(self) -> str:
        return KINDS[self.kind][1]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of a file's bytes. `crc32c` is None for larger files."""

    size: int
    md5: bytes
    sha256: str
    crc32c: int | None


Baker = Callable[[Recipe], bytes]


def _png(draw: Callable[[int, int, int], pictures.Picture]) -> Baker:
    return lambda recipe: pictures.png(draw(recipe.seed, recipe.width, recipe.height))


KINDS: dict[str, tuple[str, str, Baker | None]] = {
    "png": ("image/png", "png", _png(pictures.landscape)),
    "mask": ("image/png", "png", _png(pictures.mask)),
    "depth": ("image/png", "png", _png(pictures.depth)),
    "webp": ("image/webp", "webp", lambda r: webp(pictures.landscape(r.seed, r.width, r.height))),
    "mp4": ("video/mp4", "mp4", lambda r: video(r.seed)),
    "wav": ("audio/wav", "wav", lambda r: sound.wav(r.seed)),
    "flac": ("audio/flac", "flac", lambda r: sound.flac(r.seed)),
    "mp3": ("audio/mpeg", "mp3", lambda r: sound.mp3(r.seed)),
    "glb": ("model/gltf-binary", "glb", lambda r: things.glb(r.seed)),
    "svg": ("image/svg+xml", "svg", lambda r: things.svg(r.seed)),
    "tar": ("application/x-tar", "tar", lambda r: things.weights(r.seed)),
    "bytes": ("application/octet-stream", "bin", None),
}


class Pantry:
    """Bytes of recipes, the ones last asked for kept at hand up to a bound. Callable from any thread."""

    def __init__(self) -> None:
        self.stopped = False
        self._lock = threading.Lock()
        self._bytes: OrderedDict[Recipe, bytes] = OrderedDict()
        self._held = 0
        self._facts: OrderedDict[Recipe, Facts] = OrderedDict()

    def facts(self, recipe: Recipe) -> Facts:
        with self._lock:
            known = self._facts.get(recipe)
        if known is None:
            known = _facts(self._until_stopped(recipe))
            with self._lock:
                self._facts[recipe] = known
                while len(self._facts) > FACTS_MAX:
                    self._facts.popitem(last=False)
        return known

    def warm(self, recipe: Recipe) -> None:
        """Makes the bytes if they are not at hand, so that the next `pieces` is quick."""
        bake = KINDS[recipe.kind][2]
        if bake is not None:
            self._whole(recipe, bake)

    def pieces(self, recipe: Recipe, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`, a piece at a time."""
        bake = KINDS[recipe.kind][2]
        if bake is None:
            yield from _noise(recipe, start, recipe.size if stop is None else stop)
            return
        whole = self._whole(recipe, bake)
        end = len(whole) if stop is None else stop
        for at in range(start, end, PIECE_BYTES):
            yield whole[at : min(at + PIECE_BYTES, end)]

    def _until_stopped(self, recipe: Recipe) -> Iterator[bytes]:
        """Hashing gigabytes takes long enough for the sandbox to end meanwhile; threads are not cancelled."""
        for piece in self.pieces(recipe):
            if self.stopped:
                raise RuntimeError("The sandbox has ended")
            yield piece

    def _whole(self, recipe: Recipe, bake: Baker) -> bytes:
        with self._lock:
            known = self._bytes.get(recipe)
            if known is not None:
                self._bytes.move_to_end(recipe)
                return known
        made = bake(recipe)
        with self._lock:
            if recipe not in self._bytes:
                self._bytes[recipe] = made
                self._held += len(made)
            while self._held > CACHE_BYTES_MAX:
                _old, dropped = self._bytes.popitem(last=False)
                self._held -= len(dropped)
        return made


def _noise(recipe: Recipe, start: int, stop: int) -> Iterator[bytes]:
    """Block after block of the same noise, each led by its number, so that no part can be swapped unseen."""
    block = random.Random(recipe.seed).randbytes(PIECE_BYTES)
    at = start
    while at < stop:
        number, offset = divmod(at, PIECE_BYTES)
        piece = (number.to_bytes(8, "big") + block[8:])[offset : offset + stop - at]
        yield piece
        at += len(piece)


def _facts(pieces: Iterator[bytes]) -> Facts:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    size, crc = 0, 0
    for piece in pieces:
        md5.update(piece)
        sha256.update(piece)
        size += len(piece)
        if size <= CRC_BYTES_MAX:
            crc = crc32c(piece, crc)
    return Facts(size, md5.digest(), sha256.hexdigest(), crc if size <= CRC_BYTES_MAX else None)


def crc32c(data: bytes, crc: int = 0) -> int:
    """Castagnoli's CRC, as in `x-goog-hash`; `crc` goes on from the bytes before."""
    table = _crc_table()
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@lru_cache(maxsize=1)
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
