"""What a server says about the file it sends: pure, read from the headers of one answer."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

PROOF_HEADERS = ("etag", "last-modified", "content-type", "x-goog-hash", "content-length")
"""The headers worth keeping beside an object."""

_MD5_ETAG = re.compile(r'"([0-9a-fA-F]{32})"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_HEADER_CHARACTERS_MAX = 1024
_MD5_BYTES = 16


@dataclass(frozen=True, slots=True)
class Claims:
    """What one answer claims: `size` in bytes or None, `md5s` as hex (an ETag's only looks like one).

    `validator` is what `If-Range` may hold (RFC 9110 13.1.5): a strong ETag, else Last-Modified, else "".
    """

    size: int | None
    etag_md5: str
    goog_md5: str
    validator: str
    headers: dict[str, str]

    @property
    def wants_md5(self) -> bool:
        return bool(self.etag_md5 or self.goog_md5)

    def contradicts(self, size: int, md5: str) -> bool:
        """Does a body of `size` bytes with this MD5 (hex) differ from what was claimed.

        Google's own hash decides where it is there; a CDN's ETag of 32 hex digits need not be an MD5.
        """
        if self.size is not None and self.size != size:
            return True
        claimed = self.goog_md5 or self.etag_md5
        return bool(claimed) and claimed != md5


def read_claims(headers: Mapping[str, str], size: int | None) -> Claims:
    """Read the headers (lower-case names) of a 200 answer whose framing announces `size` bytes (None: not known)."""
    etag = headers.get("etag", "")
    strong = etag if etag.startswith('"') and len(etag) <= _HEADER_CHARACTERS_MAX else ""
    looks_like_md5 = _MD5_ETAG.fullmatch(etag)
    return Claims(
        size=size,
        etag_md5=looks_like_md5[1].lower() if looks_like_md5 else "",
        goog_md5=_goog_md5(headers),
        validator=strong or headers.get("last-modified", "")[:_HEADER_CHARACTERS_MAX],
        headers={name: headers[name][:_HEADER_CHARACTERS_MAX] for name in PROOF_HEADERS if name in headers},
    )


def read_content_range(text: str) -> tuple[int, int, int | None] | None:
    """`bytes 5-9/10` as (5, 9, 10); None where it is not that."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def _goog_md5(headers: Mapping[str, str]) -> str:
    # The hash is of the stored bytes: where they are stored compressed and served unpacked, it tells nothing.
    if headers.get("x-goog-stored-content-encoding", "identity").strip().lower() != "identity":
        return ""
    for part in headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "md5":
            try:
                digest = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                return ""
            return digest.hex() if len(digest) == _MD5_BYTES else ""
    return ""
