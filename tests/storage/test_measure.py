import io
import struct
import tracemalloc
import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from storage.measure import READ_BYTES_MAX, Bounded, Measures, measure

TYPES = [
    *("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/heic", "image/bmp", "image/tiff"),
    *("image/svg+xml", "audio/mpeg", "audio/wav", "audio/flac", "audio/ogg", "audio/aiff"),
    *("video/mp4", "video/quicktime", "audio/mp4", "video/webm", "video/x-matroska"),
]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_pictures_tell_their_sides(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    Image.new("RGB", (37, 21), "blue").save(path, kind)
    assert measure(path, f"image/{kind.lower()}") == Measures(37, 21)
    assert measure(path.read_bytes(), f"image/{kind.lower()}") == Measures(37, 21)


@pytest.mark.parametrize(
    ("svg", "expected"),
    [
        (b"<?xml version='1.0'?><svg viewBox='0 0 9 9' width=\"120\" height='80.6px'>", Measures(120, 81)),
        (b"<svg width='100%' height='5'>", Measures()),
        (b"<svg stroke-width='3' height='5'>", Measures()),
        (b"<svg width='9999999' height='5'>", Measures()),
        (b"<g width='1' height='1'>", Measures()),
    ],
)
def test_svg_tells_its_sides_where_it_has_them_in_pixels(svg: bytes, expected: Measures) -> None:
    assert measure(svg, "image/svg+xml") == expected


def test_sound_tells_its_duration() -> None:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000 * 4 * 3 // 2))
    assert measure(out.getvalue(), "audio/wav") == Measures(duration_s=1.5)
    frames = (b"\xff\xfb\x90\x00" + bytes(413)) * 80
    duration_s = measure(frames, "audio/mpeg").duration_s
    assert duration_s == pytest.approx(80 * 1152 / 44100, abs=0.1)


def test_silence_of_no_length_has_no_duration() -> None:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
    assert measure(out.getvalue(), "audio/wav") == Measures()


def box(kind: bytes, inside: bytes = b"", *, wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(inside)) + inside
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def mvhd(duration: int, *, timescale: int = 1000, version: int = 0) -> bytes:
    if version:
        return box(b"mvhd", struct.pack(">B3xQQIQ", 1, 0, 0, timescale, duration) + bytes(80))
    return box(b"mvhd", struct.pack(">B3xIIII", 0, 0, 0, timescale, duration) + bytes(80))


def trak(width: int, height: int, *, turned: bool = False, version: int = 0) -> bytes:
    one = 0x10000
    matrix = (0, one, 0, -one, 0, 0, 0, 0, 1 << 30) if turned else (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    before = bytes([version]) + bytes(51 if version else 39)
    return box(
        b"trak", box(b"tkhd", before + struct.pack(">9i", *matrix) + struct.pack(">II", width << 16, height << 16))
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (box(b"moov", mvhd(2500) + trak(0, 0) + trak(640, 360)), Measures(640, 360, 2.5)),
        (
            box(b"mdat", bytes(99), wide=True) + box(b"moov", mvhd(90_000, timescale=90_000, version=1)),
            Measures(None, None, 1.0),
        ),
        (box(b"moov", mvhd(1000) + trak(640, 360, turned=True, version=1)), Measures(360, 640, 1.0)),
        (box(b"moov", mvhd(0) + box(b"mvex", box(b"mehd", struct.pack(">II", 0, 4000)))), Measures(None, None, 4.0)),
        (box(b"moov", mvhd(0) + box(b"mvex", box(b"mehd", struct.pack(">B3xQ", 1, 4000)))), Measures(None, None, 4.0)),
        (box(b"moov", mvhd(0) + box(b"mvex", box(b"trex", bytes(4)))), Measures()),
        (box(b"moov", mvhd(1000, timescale=0)), Measures()),
        (box(b"moov", mvhd(0xFFFFFFFF)), Measures()),
        (box(b"moov", trak(5, 5) + box(b"trak", box(b"mdia"))), Measures(5, 5)),
        (box(b"moov", mvhd(1000))[:-90], Measures()),
        (struct.pack(">I4s", 4, b"moov") * 9, Measures()),
        (struct.pack(">I4s", 0, b"moov") + mvhd(1000), Measures(None, None, 1.0)),
        (box(b"free") * 50_000 + box(b"moov", mvhd(1000)), Measures()),
        (box(b"mdat", bytes(9)), Measures()),
    ],
)
def test_mp4_tells_its_sides_and_duration(data: bytes, expected: Measures) -> None:
    assert measure(data, "video/mp4") == expected


def element(name: str, inside: bytes, *, unknown: bool = False) -> bytes:
    size = b"\x01" + b"\xff" * 7 if unknown else (len(inside) | 1 << 28).to_bytes(4, "big")
    return bytes.fromhex(name) + size + inside


EBML = element("1A45DFA3", element("4282", b"webm"))
TRACKS = element(
    "1654AE6B",
    element("AE", element("D7", b"\x01") + element("E0", element("B0", b"\x02\x80") + element("BA", b"\x01\x68")))
    + element("AE", element("D7", b"\x02")),
)


def webm(info: bytes, *, unknown: bool = False) -> bytes:
    return EBML + element(
        "18538067", element("1549A966", info) + TRACKS + element("1F43B675", b"\xff" * 9), unknown=unknown
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            webm(element("2AD7B1", b"\x0f\x42\x40") + element("4489", struct.pack(">d", 2500.0))),
            Measures(640, 360, 2.5),
        ),
        (webm(element("4489", struct.pack(">f", 500.0)), unknown=True), Measures(640, 360, 0.5)),
        (webm(b""), Measures(640, 360)),
        (webm(element("4489", struct.pack(">d", float("nan")))), Measures(640, 360)),
        (webm(element("4489", b"\x01\x02")), Measures()),
        (EBML + element("18538067", element("1F43B675", b"") + TRACKS), Measures()),
        (EBML, Measures()),
        (EBML + b"\0\0\0\0", Measures()),
    ],
)
def test_webm_tells_its_sides_and_duration(data: bytes, expected: Measures) -> None:
    assert measure(data, "video/webm") == expected


def test_what_has_no_measures_is_not_opened() -> None:
    assert measure(Path("/nowhere"), "application/zip") == Measures()
    assert measure(Path("/nowhere"), "image/png") == Measures()


@pytest.mark.parametrize("kind", TYPES)
@given(data=st.binary(max_size=400))
def test_hostile_files_have_no_measures_instead_of_errors(kind: str, data: bytes) -> None:
    starts = {
        "image/png": b"\x89PNG\r\n\x1a\n",
        "image/jpeg": b"\xff\xd8\xff",
        "audio/flac": b"fLaC",
        "audio/mpeg": b"ID3\4\0\0",
    }
    assert isinstance(measure(starts.get(kind, b"") + data, kind), Measures)


@pytest.mark.parametrize("kind", TYPES)
def test_a_file_cut_anywhere_has_measures_or_none(kind: str) -> None:
    out = io.BytesIO()
    shape = kind.removeprefix("image/").upper()
    if shape in {"PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"}:
        Image.new("RGB", (9, 9)).save(out, shape)
    data = out.getvalue() or webm(b"") + box(b"moov", mvhd(5))
    for cut in range(0, len(data), 7):
        measure(data[:cut], kind)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(b"\xff\xd8" + b"\xff\xe1\xff\xff" + bytes(200))
        file.truncate(400 * 1024 * 1024)
    tracemalloc.start()
    for kind in TYPES:
        measure(path, kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * READ_BYTES_MAX


def test_reading_for_ever_is_stopped() -> None:
    with Bounded(io.BytesIO(bytes(100))) as file:
        assert (file.readable(), file.seekable(), file.size) == (True, True, 100)
        assert file.read() == bytes(100)
        assert file.tell() == 100
        assert io.BufferedReader(file).read(5) == b""
    for action in (lambda file: file.seek(0), lambda file: file.read(1)):
        with Bounded(io.BytesIO(bytes(100))) as file, pytest.raises(OSError, match="too long"):
            all(action(file) is not None for _ in range(60_000))
    with Bounded(io.BytesIO(bytes(READ_BYTES_MAX + 1))) as file, pytest.raises(OSError, match="too long"):
        file.read()
