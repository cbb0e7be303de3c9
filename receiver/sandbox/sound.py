"""Sound: a melody from a seed as WAV and as FLAC; MP3, whose codec is a book, holds silence in true frames."""

import array
import hashlib
import io
import math
import random
import struct
import sys
import wave

RATE = 22_050
NOTES = 8
NOTE_SAMPLES = RATE // 4
SCALE = (0, 2, 4, 7, 9, 12, 14, 16)  # pentatonic, in half-tones: nothing clashes
FLAC_BLOCK = 4096
MP3_RATE = 44_100
MP3_FRAME_SAMPLES = 1152
MP3_FRAME_BYTES = 144 * 128_000 // MP3_RATE


def wav(seed: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(_bytes(melody(seed), little=True))
    return file.getvalue()


def flac(seed: int) -> bytes:
    """RFC 9639, samples verbatim: as long as the WAV, and as exact."""
    samples = melody(seed)
    digest = hashlib.md5(_bytes(samples, little=True), usedforsecurity=False).digest()
    shape = RATE << 44 | 0 << 41 | 15 << 36 | len(samples)  # one channel and 16 bits, each told less one
    info = struct.pack(">HH", FLAC_BLOCK, FLAC_BLOCK) + bytes(6) + shape.to_bytes(8, "big") + digest
    blocks = [samples[at : at + FLAC_BLOCK] for at in range(0, len(samples), FLAC_BLOCK)]
    frames = b"".join(_flac_frame(number, block) for number, block in enumerate(blocks))
    return b"fLaC\x80\x00\x00\x22" + info + frames


def mp3(seed: int) -> bytes:
    """MPEG-1 layer III, 128 kbit/s, mono: frames without any coefficient, after a title that tells files apart."""
    title = b"\x00Silence no. " + str(seed).encode("ascii")
    frame = b"TIT2" + struct.pack(">IH", len(title), 0) + title
    tag = b"ID3\x03\x00\x00" + bytes((0, 0, len(frame) >> 7, len(frame) & 127)) + frame
    count = -(-NOTES * NOTE_SAMPLES * MP3_RATE // RATE // MP3_FRAME_SAMPLES)
    return tag + (b"\xff\xfb\x90\xc4" + bytes(MP3_FRAME_BYTES - 4)) * count


def melody(seed: int) -> list[int]:
    """16-bit samples of eight notes that fade."""
    rng = random.Random(seed)
    base = rng.uniform(180, 280)
    samples: list[int] = []
    for _ in range(NOTES):
        step = 2 * math.pi * base * 2 ** (rng.choice(SCALE) / 12) / RATE
        samples.extend(
            int(11_000 * math.exp(-4 * at / NOTE_SAMPLES) * (math.sin(step * at) + 0.3 * math.sin(2 * step * at)))
            for at in range(NOTE_SAMPLES)
        )
    return samples


def _bytes(samples: list[int], *, little: bool) -> bytes:
    packed = array.array("h", samples)
    if little != (sys.byteorder == "little"):
        packed.byteswap()
    return packed.tobytes()


def _flac_frame(number: int, block: list[int]) -> bytes:
    whole = len(block) == FLAC_BLOCK
    head = bytes((0xFF, 0xF8, 0xC0 if whole else 0x70, 0x08)) + chr(number).encode()
    if not whole:
        head += struct.pack(">H", len(block) - 1)
    head += bytes((_crc(head, 0x07, 8),))
    frame = head + b"\x02" + _bytes(block, little=False)
    return frame + struct.pack(">H", _crc(frame, 0x8005, 16))


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) & 1 else 0)
        table.append(value & ((1 << bits) - 1))
    crc, mask = 0, (1 << bits) - 1
    for byte in data:
        crc = ((crc << 8) & mask) ^ table[(crc >> (bits - 8)) ^ byte]
    return crc
