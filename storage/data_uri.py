"""`data:` URIs (RFC 2397): a file inside its own address. Pure."""

import base64
import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from storage.errors import Gone, Refused

PIECE_CHARACTERS = 1024 * 1024
"""Decoded at a time."""

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}", re.ASCII)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*")
_SPACE = re.compile(r"[ \t\r\n\f]+")
_URL_SAFE = str.maketrans("-_", "+/")


def is_data_uri(source: str) -> bool:
    """Does the text as a whole present itself as a `data:` URI."""
    return source[:5].lower() == "data:"


def content_type(source: str) -> str:
    """The media type without parameters, lower-case; `text/plain` where none is given (RFC 2397)."""
    kind = source[5 : 5 + 512].partition(",")[0].partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) else "text/plain"


def decode(source: str, bytes_max: int) -> Iterator[bytes]:
    """The bytes, piece by piece. Raises Gone where it is malformed, Refused above `bytes_max`."""
    comma = source.find(",")
    if comma < 0:
        raise Gone("The data: URI has no comma, so it holds no data.")
    in_base64 = source[5:comma].rpartition(";")[2].strip().lower() == "base64"
    size = 0
    for piece in _base64_pieces(source, comma + 1) if in_base64 else _unescaped_pieces(source, comma + 1):
        size += len(piece)
        if size > bytes_max:
            raise Refused(f"The data: URI holds more than the {bytes_max} bytes that are allowed.")
        yield piece


def _base64_pieces(source: str, start: int) -> Iterator[bytes]:
    letters, padded = "", False
    for text in _unescaped_pieces(source, start):
        part = _SPACE.sub("", text.decode("latin-1")).translate(_URL_SAFE)
        before, sign, after = part.partition("=")
        if after.strip("=") or (padded and before):
            raise Gone("The data: URI's base64 goes on after its end.")
        padded = padded or bool(sign)
        letters += before
        whole = len(letters) - len(letters) % 4
        yield _from_base64(letters[:whole])
        letters = letters[whole:]
    if letters:
        yield _from_base64(letters)


def _from_base64(letters: str) -> bytes:
    if not _BASE64.fullmatch(letters):
        raise Gone("The data: URI's base64 is malformed.")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except binascii.Error as error:
        raise Gone("The data: URI's base64 is malformed.") from error


def _unescaped_pieces(source: str, start: int) -> Iterator[bytes]:
    carried = ""
    for at in range(start, len(source), PIECE_CHARACTERS):
        text = carried + source[at : at + PIECE_CHARACTERS]
        # An escape may straddle two pieces.
        cut = text.rfind("%", max(0, len(text) - 2))
        text, carried = (text, "") if cut < 0 else (text[:cut], text[cut:])
        yield _unescaped(text)
    yield _unescaped(carried)


def _unescaped(text: str) -> bytes:
    if _BAD_PERCENT.search(text):
        raise Gone("The data: URI's percent escapes are malformed.")
    try:
        return unquote_to_bytes(text)
    except UnicodeEncodeError as error:
        raise Gone("The data: URI holds characters that are no text.") from error
