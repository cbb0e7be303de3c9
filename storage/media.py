"""What a file is: by its leading bytes, with the server's header as second opinion. Pure.

An ending always comes out of the tables here, never out of a URL or a header.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import urlsplit

from storage.signatures import HEAD_BYTES, UNKNOWN, sniff

__all__ = ["HEAD_BYTES", "Media", "detect", "is_out_of_place"]

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}", re.ASCII)
_URL_ENDING = re.compile(r"\.([A-Za-z0-9]{1,10})$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Media:
    """What a file is taken for (`content_type`, `ending`), and the three opinions that this follows from.

    `ending` has no dot. `header_type` and `bytes_type` are media types without parameters, `url_ending` is lower-case;
    each is "" where there is none.
    """

    content_type: str
    ending: str
    header_type: str
    bytes_type: str
    url_ending: str


def detect(head: bytes, *, whole: bool, header: str = "", url: str = "") -> Media:
    """Tell a file by its first HEAD_BYTES; `whole` if it has no more. Never raises.

    `header` is the Content-Type as sent. It decides only where the bytes leave it open: plain text, a zip, XML or JSON
    that is some finer format, or bytes that nothing is known about.
    """
    header_type = _plain_type(header)
    content_type, ending = sniff(head[:HEAD_BYTES], whole=whole)
    finer = _FINER.get(content_type, {}).get(header_type)
    return Media(
        content_type=header_type if finer else content_type,
        ending=finer or ending,
        header_type=header_type,
        bytes_type="" if content_type == UNKNOWN else content_type,
        url_ending=_url_ending(url),
    )


def is_out_of_place(head: bytes, *, whole: bool, url: str) -> bool:
    """Whether words, or nothing, came where the URL's ending says picture, sound, film or archive.

    That is mostly a page about an error, sent as if it were the file.
    """
    if _url_ending(url) not in _NEVER_WORDS:
        return False
    return not head or sniff(head[:HEAD_BYTES], whole=whole)[0] in _WORDS


def _plain_type(header: str) -> str:
    plain = header[:1024].partition(";")[0].strip().lower()
    return plain if _TYPE.fullmatch(plain) else ""


def _url_ending(url: str) -> str:
    if url[:5].lower() == "data:":
        return ""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    match = _URL_ENDING.search(path.rpartition("/")[2])
    return match[1].lower() if match else ""


_TEXTS = {
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
    "text/markdown": "md",
    "text/vtt": "vtt",
    "text/srt": "srt",
    "application/x-subrip": "srt",
    "text/css": "css",
    "text/javascript": "js",
    "application/javascript": "js",
    "text/html": "html",
    "text/xml": "xml",
    "application/xml": "xml",
    "image/svg+xml": "svg",
    "application/yaml": "yaml",
    "application/x-yaml": "yaml",
    "text/yaml": "yaml",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-tex": "tex",
    "application/rtf": "rtf",
    "text/rtf": "rtf",
    "text/x-python": "py",
    "model/obj": "obj",
    "model/mtl": "mtl",
    "model/stl": "stl",
    "model/step": "step",
    "chemical/x-pdb": "pdb",
    "chemical/x-mmcif": "cif",
}
_JSONS = {
    "model/gltf+json": "gltf",
    "application/geo+json": "geojson",
    "application/ld+json": "jsonld",
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
}
_ZIPS = {
    "application/epub+zip": "epub",
    "model/vnd.usdz+zip": "usdz",
    "model/3mf": "3mf",
    "application/java-archive": "jar",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.oasis.opendocument.text": "odt",
}
_BINARIES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/bmp": "bmp",
    "image/tiff": "tif",
    "image/x-tga": "tga",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/mpeg": "mpg",
    "video/mp2t": "ts",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/aac": "aac",
    "audio/mp4": "m4a",
    "audio/webm": "webm",
    "model/gltf-binary": "glb",
    "model/stl": "stl",
    "application/sla": "stl",
    "application/pdf": "pdf",
}
_WORDS = frozenset({"text/html", "application/xml", "application/json", "text/plain"})
_NEVER_WORDS = frozenset(
    {
        *("png", "jpg", "jpeg", "webp", "gif", "avif", "heic", "bmp", "tif", "tiff", "psd", "exr", "jxl", "jp2"),
        *("mp4", "m4v", "mov", "webm", "mkv", "avi", "mpg", "mpeg", "3gp", "ogv"),
        *("mp3", "wav", "flac", "ogg", "oga", "opus", "aac", "m4a", "aiff"),
        *("zip", "gz", "tgz", "bz2", "xz", "zst", "7z", "tar", "glb", "pdf", "npy", "npz", "safetensors", "gguf"),
        *("parquet", "woff2", "epub", "usdz", "docx", "xlsx", "pptx", "odt"),
    }
)
"""Endings of formats that are never text; `stl`, `ply` and `ts` may be."""
_FINER: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "text/plain": _TEXTS,
        "application/xml": {name: _TEXTS[name] for name in ("text/html", "image/svg+xml")},
        "application/json": _JSONS,
        "application/zip": _ZIPS,
        "video/mp4": {"audio/mp4": "m4a", "audio/x-m4a": "m4a"},
        "video/webm": {"audio/webm": "webm"},
        "audio/ogg": {"video/ogg": "ogv", "audio/opus": "opus"},
        UNKNOWN: _BINARIES,
    }
)
"""By what the bytes say: which finer types a header may make of it, and their endings."""
