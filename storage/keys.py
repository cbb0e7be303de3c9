"""Pure: which keys a bucket takes. One rule for every bucket, so that objects can be moved from one to another."""

import re

from storage.errors import Refused

KEY_BYTES_MAX = 1024  # S3: "Object key names … at most 1,024 bytes long" in UTF-8
SEGMENT_BYTES_MAX = 255  # NAME_MAX of Linux file systems

_UNPLAIN = re.compile(r"[\x00-\x1f\x7f\\]")


def check_key(key: str) -> str:
    """The key itself if it is relative, plain and short enough. Raises Refused with one sentence."""
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise Refused("An object's key must be text that UTF-8 can hold.") from error
    if not encoded or len(encoded) > KEY_BYTES_MAX:
        raise Refused(f"An object's key must have 1 to {KEY_BYTES_MAX} bytes.")
    if _UNPLAIN.search(key):
        raise Refused("An object's key must not contain control characters or backslashes.")
    for segment in encoded.split(b"/"):
        if segment in {b"", b".", b".."} or len(segment) > SEGMENT_BYTES_MAX:
            raise Refused(
                "An object's key must be relative, without empty, dotted or over-long parts between its slashes."
            )
    return key
