"""Leading bytes and what they stand for. Pure, never raises."""

import json
import re

HEAD_BYTES = 64 * 1024
"""As much of a file as is looked at: an SVG's preamble or a JSON's beginning fits."""
UNKNOWN = "application/octet-stream"

Kind = tuple[str, str]

_UNKNOWN: Kind = (UNKNOWN, "bin")
_TEXT: Kind = ("text/plain", "txt")
_HTML: Kind = ("text/html", "html")
_SVG: Kind = ("image/svg+xml", "svg")
_XML: Kind = ("application/xml", "xml")
_JSON: Kind = ("application/json", "json")
_MP3: Kind = ("audio/mpeg", "mp3")

_PREFIXES: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89PNG\r\n\x1a\n", ("image/png", "png")),
    (b"\xff\xd8\xff", ("image/jpeg", "jpg")),
    (b"GIF87a", ("image/gif", "gif")),
    (b"GIF89a", ("image/gif", "gif")),
    (b"II*\0", ("image/tiff", "tif")),
    (b"MM\0*", ("image/tiff", "tif")),
    (b"II+\0", ("image/tiff", "tif")),
    (b"MM\0+", ("image/tiff", "tif")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", ("image/jxl", "jxl")),
    (b"\xff\x0a", ("image/jxl", "jxl")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", ("image/jp2", "jp2")),
    (b"\x76\x2f\x31\x01", ("image/x-exr", "exr")),
    (b"#?RADIANCE", ("image/vnd.radiance", "hdr")),
    (b"8BPS\0\x01", ("image/vnd.adobe.photoshop", "psd")),
    (b"ID3", _MP3),
    (b"fLaC", ("audio/flac", "flac")),
    (b"MThd\0\0\0\x06", ("audio/midi", "mid")),
    (b"glTF", ("model/gltf-binary", "glb")),
    (b"ply\n", ("model/ply", "ply")),
    (b"ply\r\n", ("model/ply", "ply")),
    (b"PXR-USDC", ("model/vnd.usd", "usdc")),
    (b"Kaydara FBX Binary", ("model/vnd.fbx", "fbx")),
    (b"PK\x03\x04", ("application/zip", "zip")),
    (b"PK\x05\x06", ("application/zip", "zip")),
    (b"\x1f\x8b\x08", ("application/gzip", "gz")),
    (b"BZh9", ("application/x-bzip2", "bz2")),
    (b"\xfd7zXZ\0", ("application/x-xz", "xz")),
    (b"\x28\xb5\x2f\xfd", ("application/zstd", "zst")),
    (b"7z\xbc\xaf\x27\x1c", ("application/x-7z-compressed", "7z")),
    (b"%PDF-", ("application/pdf", "pdf")),
    (b"\x93NUMPY", ("application/x-npy", "npy")),
    (b"GGUF", ("application/x-gguf", "gguf")),
    (b"PAR1", ("application/vnd.apache.parquet", "parquet")),
    (b"SQLite format 3\0", ("application/vnd.sqlite3", "sqlite")),
    (b"wOF2", ("font/woff2", "woff2")),
)
_ANY_PREFIX = tuple(prefix for prefix, _ in _PREFIXES)
_RIFF: dict[bytes, Kind] = {
    b"WEBP": ("image/webp", "webp"),
    b"WAVE": ("audio/wav", "wav"),
    b"AVI ": ("video/x-msvideo", "avi"),
}
_BRANDS: dict[bytes, Kind] = {
    b"avif": ("image/avif", "avif"),
    b"avis": ("image/avif", "avif"),
    b"heic": ("image/heic", "heic"),
    b"heix": ("image/heic", "heic"),
    b"hevc": ("image/heic", "heic"),
    b"heim": ("image/heic", "heic"),
    b"qt  ": ("video/quicktime", "mov"),
    b"M4A ": ("audio/mp4", "m4a"),
    b"M4B ": ("audio/mp4", "m4a"),
    b"3gp4": ("video/3gpp", "3gp"),
    b"3gp5": ("video/3gpp", "3gp"),
}
_MP4: Kind = ("video/mp4", "mp4")
_OLD_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip")
_BMP_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_MARKUP_NOISE = re.compile(
    r"\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE\s+svg[^>\[]*(?:\[[^\]]*\])?\s*>", re.DOTALL | re.IGNORECASE
)
_HTML_START = re.compile(r"<(?:!doctype\s+html|html|head|body|title|script|meta|h1|center)\b", re.IGNORECASE)
_SVG_START = re.compile(r"<(?:svg:)?svg[\s>/]", re.IGNORECASE)
_JSON_START = re.compile(r"\s*(?:\{\s*\"|\[\s*(?:\"|\[|\{\s*\"|-?[0-9.eE+-]+\s*,))")


def sniff(head: bytes, *, whole: bool) -> Kind:
    """Media type and ending of a file that begins with `head`; `whole` if there is no more of it."""
    if head.startswith(_ANY_PREFIX):
        return next(kind for prefix, kind in _PREFIXES if head.startswith(prefix))
    return _container(head) or _audio(head) or _other_binary(head) or _text(head, whole=whole) or _UNKNOWN


def _container(head: bytes) -> Kind | None:
    if head[:4] in {b"RIFF", b"RF64"}:
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _brand(head)
    if head[4:8] in _OLD_QUICKTIME and head[8:12].strip(b"\0"):
        return ("video/quicktime", "mov")
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        start = head[:128]
        return ("video/webm", "webm") if b"webm" in start else ("video/x-matroska", "mkv")
    if head.startswith(b"OggS"):
        first_page = head[:128]
        if b"OpusHead" in first_page:
            return ("audio/ogg", "opus")
        return ("video/ogg", "ogv") if b"theora" in first_page else ("audio/ogg", "ogg")
    if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"}:
        return ("audio/aiff", "aiff")
    return None


def _brand(head: bytes) -> Kind:
    major = head[8:12]
    if major in _BRANDS:
        return _BRANDS[major]
    size = min(int.from_bytes(head[:4], "big"), 256)
    compatible = {head[at : at + 4] for at in range(16, size, 4)}
    if major in {b"mif1", b"msf1"}:
        return _BRANDS[b"avif"] if compatible & {b"avif", b"avis"} else _BRANDS[b"heic"]
    return _MP4


def _audio(head: bytes) -> Kind | None:
    """An MPEG audio frame without a tag before it; the second frame must stand where the first one ends."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return ("audio/aac", "aac")
    size = _mp3_frame_bytes(head[:4])
    following = head[size : size + 2]
    if size and (len(following) < 2 or (following[0] == 0xFF and following[1] & 0xE0 == 0xE0)):
        return _MP3
    return None


def _mp3_frame_bytes(frame: bytes) -> int:
    version, layer = frame[1] >> 3 & 3, frame[1] >> 1 & 3
    rate_index, sample_index, padding = frame[2] >> 4, frame[2] >> 2 & 3, frame[2] >> 1 & 1
    if version == 1 or layer != 1 or rate_index in {0, 15} or sample_index == 3:
        return 0
    rates = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    low_rates = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    samples = (44_100, 48_000, 32_000)[sample_index] >> {3: 0, 2: 1, 0: 2}[version]
    kbits = (rates if version == 3 else low_rates)[rate_index - 1]
    return (144_000 if version == 3 else 72_000) * kbits // samples + padding


def _other_binary(head: bytes) -> Kind | None:
    if head[257:262] == b"ustar":
        return ("application/x-tar", "tar")
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return ("image/bmp", "bmp")
    if head[:4] == b"\0\0\x01\0" and 0 < int.from_bytes(head[4:6], "little") < 64 and head[9:10] == b"\0":
        return ("image/x-icon", "ico")
    header_bytes = int.from_bytes(head[:8], "little")
    if head[8:10] == b'{"' and 2 <= header_bytes < 100_000_000:
        return ("application/x-safetensors", "safetensors")
    return None


def _text(head: bytes, *, whole: bool) -> Kind | None:
    text = _decoded(head, whole=whole)
    if text is None:
        return None
    start = text.lstrip("\ufeff")
    at, is_xml = 0, start.lstrip()[:5].lower() == "<?xml"
    while match := _MARKUP_NOISE.match(start, at):
        at = match.end()
    if _SVG_START.match(start, at):
        return _SVG
    if _HTML_START.match(start, at):
        return _HTML
    if is_xml:
        return _XML
    return _JSON if _is_json(start, whole=whole) else _TEXT


def _decoded(head: bytes, *, whole: bool) -> str | None:
    if not head:
        return None
    try:
        if head[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            return head[: len(head) & ~1].decode("utf-16", "strict" if whole else "ignore")
        if _CONTROLS.search(head):
            return None
        return head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The last character may be cut where the head ends.
        return head[: error.start].decode("utf-8") if not whole and error.start > len(head) - 4 else None


def _is_json(text: str, *, whole: bool) -> bool:
    if text.lstrip()[:1] not in {"{", "["}:
        return False
    if not whole:
        return _JSON_START.match(text) is not None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
