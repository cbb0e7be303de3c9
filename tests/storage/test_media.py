import io
import json
import struct
import wave
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from storage.media import HEAD_BYTES, detect


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    inside = major + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", 8 + len(inside)) + b"ftyp" + inside + bytes(64)


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(out, kind)
    return out.getvalue()


def sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return out.getvalue()


def packed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a", "b")
    return out.getvalue()


TAR = b"name".ljust(257, b"\0") + b"ustar\0" + bytes(249)
SAFETENSORS = struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}'
MP3_FRAMES = (b"\xff\xfb\x90\x00" + bytes(413)) * 2
GLB = b"glTF\x02\0\0\0" + bytes(12)


@pytest.mark.parametrize(
    ("data", "content_type", "ending"),
    [
        (picture("PNG"), "image/png", "png"),
        (picture("JPEG"), "image/jpeg", "jpg"),
        (picture("WEBP"), "image/webp", "webp"),
        (picture("GIF"), "image/gif", "gif"),
        (picture("BMP"), "image/bmp", "bmp"),
        (picture("TIFF"), "image/tiff", "tif"),
        (picture("AVIF"), "image/avif", "avif"),
        (picture("ICO"), "image/x-icon", "ico"),
        (ftyp(b"avis"), "image/avif", "avif"),
        (ftyp(b"mif1", b"mif1", b"avif"), "image/avif", "avif"),
        (ftyp(b"mif1", b"mif1", b"heic"), "image/heic", "heic"),
        (ftyp(b"heic"), "image/heic", "heic"),
        (ftyp(b"isom"), "video/mp4", "mp4"),
        (ftyp(b"mp42"), "video/mp4", "mp4"),
        (ftyp(b"qt  "), "video/quicktime", "mov"),
        (b"\0\0\0\x08wide\0\0\x10\0mdat", "video/quicktime", "mov"),
        (ftyp(b"M4A "), "audio/mp4", "m4a"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm" + bytes(9), "video/webm", "webm"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "video/x-matroska", "mkv"),
        (sound(), "audio/wav", "wav"),
        (b"RIFF\0\0\0\0AVI LIST", "video/x-msvideo", "avi"),
        (b"ID3\x04\0\0\0\0\0\0", "audio/mpeg", "mp3"),
        (MP3_FRAMES, "audio/mpeg", "mp3"),
        (b"\xff\xf3\x44\xc4" + bytes(50), "audio/mpeg", "mp3"),
        (b"\xff\xf1\x50\x80\x02", "audio/aac", "aac"),
        (b"fLaC\0\0\0\x22", "audio/flac", "flac"),
        (b"OggS\0\x02" + bytes(22) + b"\x01\x13OpusHead", "audio/ogg", "opus"),
        (b"OggS\0\x02" + bytes(22) + b"\x01\x1e\x01vorbis", "audio/ogg", "ogg"),
        (b"OggS\0\x02" + bytes(22) + b"\x01\x2a\x80theora", "video/ogg", "ogv"),
        (b"FORM\0\0\0\0AIFF", "audio/aiff", "aiff"),
        (GLB, "model/gltf-binary", "glb"),
        (packed(), "application/zip", "zip"),
        (b"\x1f\x8b\x08\0", "application/gzip", "gz"),
        (TAR, "application/x-tar", "tar"),
        (b"%PDF-1.7\n", "application/pdf", "pdf"),
        (SAFETENSORS, "application/x-safetensors", "safetensors"),
        (b"<svg xmlns='x'/>", "image/svg+xml", "svg"),
        (
            b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a > b -->\n<!DOCTYPE svg PUBLIC 'x' 'y'>\n<svg>",
            "image/svg+xml",
            "svg",
        ),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "application/xml", "xml"),
        (b"  <!DOCTYPE html><html><title>404</title>", "text/html", "html"),
        (b"<?xml version='1.0'?><!DOCTYPE html PUBLIC 'x'><html><svg>", "text/html", "html"),
        (b"<html><body><svg/>", "text/html", "html"),
        (b'{"a": [1, 2]}', "application/json", "json"),
        (b" [1]\n", "application/json", "json"),
        (b"{not json}", "text/plain", "txt"),
        (b"[" * 5000, "text/plain", "txt"),
        (b"just words", "text/plain", "txt"),
        ("wörter".encode(), "text/plain", "txt"),
        ("wörter".encode("utf-16"), "text/plain", "txt"),
        (b"\xff\xfe\x00\xd8", "application/octet-stream", "bin"),
        (b"caf\xe9 latin", "application/octet-stream", "bin"),
        (b"a\0b", "application/octet-stream", "bin"),
        (b"RIFF\0\0\0\0WHAT", "application/octet-stream", "bin"),
        (b"\xff\xff\xff\xff", "application/octet-stream", "bin"),
        (b"BM is a car", "text/plain", "txt"),
        (b"", "application/octet-stream", "bin"),
    ],
)
def test_files_are_told_by_their_leading_bytes(data: bytes, content_type: str, ending: str) -> None:
    media = detect(data, whole=True)
    assert (media.content_type, media.ending) == (content_type, ending)
    assert media.bytes_type == ("" if ending == "bin" else content_type)


@pytest.mark.parametrize(
    ("data", "header", "content_type", "ending"),
    [
        (b"a,b\n1,2\n", "text/csv; charset=utf-8", "text/csv", "csv"),
        (b"# Title", "TEXT/Markdown", "text/markdown", "md"),
        (b"<g/>", "image/svg+xml", "image/svg+xml", "svg"),
        (b"<?xml version='1.0'?><x:svg/>", "image/svg+xml", "image/svg+xml", "svg"),
        (b"v 0 0 0\n", "model/obj", "model/obj", "obj"),
        (b'{"asset": {}}', "model/gltf+json", "model/gltf+json", "gltf"),
        (packed(), "application/epub+zip", "application/epub+zip", "epub"),
        (b"\0\1\2\3", "model/gltf-binary", "model/gltf-binary", "glb"),
        (b"\0\1\2\3", "audio/mpeg", "audio/mpeg", "mp3"),
        (ftyp(b"isom"), "audio/mp4", "audio/mp4", "m4a"),
        (b"OggS\0\x02" + bytes(30), "video/ogg", "video/ogg", "ogv"),
        # Where the bytes speak for themselves, no header talks them out of it.
        (b"<html>404", "image/png", "text/html", "html"),
        (b"<Error/>", "image/png", "text/plain", "txt"),
        (picture("PNG"), "text/html", "image/png", "png"),
        (b"\0\1\2\3", "text/html", "application/octet-stream", "bin"),
        (b"\0\1\2\3", "application/x-evil; x=../../etc", "application/octet-stream", "bin"),
        (b"words", "nonsense", "text/plain", "txt"),
    ],
)
def test_the_header_is_a_second_opinion_where_the_bytes_leave_it_open(
    data: bytes, header: str, content_type: str, ending: str
) -> None:
    media = detect(data, whole=True, header=header)
    assert (media.content_type, media.ending) == (content_type, ending)


def test_all_three_opinions_are_kept() -> None:
    media = detect(
        b"<html>404", whole=True, header="image/png", url="https://replicate.delivery/a/out-0.WebP?x=.gif#.b"
    )
    assert (media.header_type, media.bytes_type, media.url_ending) == ("image/png", "text/html", "webp")


@pytest.mark.parametrize(
    "url",
    ["https://h/a", "https://h/a.b/", "https://h/.", "https://[h/a.png", "data:image/png,a.png", "https://h/a.p-g", ""],
)
def test_a_url_without_an_ending_has_none(url: str) -> None:
    assert detect(b"x", whole=True, url=url).url_ending == ""


def test_a_text_that_is_cut_inside_a_letter_is_still_text() -> None:
    text = ("ä" * HEAD_BYTES).encode()
    for cut in range(HEAD_BYTES, HEAD_BYTES + 2):
        assert detect(b"a" + text[: cut - 1], whole=False).ending == "txt"
    assert detect(b"a" * 10 + b"\xc3", whole=True).ending == "bin"
    assert detect("a".encode("utf-16") + b"\x00\xd8", whole=False).ending == "txt"


@pytest.mark.parametrize(
    ("data", "ending"), [({"a": "x" * 70_000}, "json"), ([{"a": 1}] * 20_000, "json"), ([1, 2] * 40_000, "json")]
)
def test_a_long_json_is_told_by_its_beginning(data: object, ending: str) -> None:
    assert detect(json.dumps(data).encode()[:HEAD_BYTES], whole=False).ending == ending


def test_a_log_that_begins_with_a_bracket_is_no_json() -> None:
    assert detect(b"[12:30] started\n" * 5000, whole=False).ending == "txt"
    assert detect(b"{ started\n" * 5000, whole=False).ending == "txt"


PREFIXES = st.sampled_from(
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xfb",
        b"RIFF",
        b"\0\0\0\x20ftyp",
        b"\x1a\x45\xdf\xa3",
        b"OggS",
        b"<",
        b"<?xml",
        b"<!--",
        b"{",
        b"\xff\xfe",
        b"BM",
        b"\0\0\1\0",
    ]
)


@given(PREFIXES, st.binary(max_size=300), st.booleans(), st.text(max_size=30), st.text(max_size=30))
def test_no_bytes_header_or_url_ever_raise(prefix: bytes, data: bytes, whole: bool, header: str, url: str) -> None:
    media = detect(prefix + data, whole=whole, header=header, url=url)
    assert media.ending.isalnum()
    assert media.ending.islower() or media.ending[0].isdigit()
    assert "/" in media.content_type
