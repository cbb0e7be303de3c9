"""Pure: AWS Signature Version 4 for S3, in headers.

The protocol: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. Ours because a signature
by botocore costs several times the request that it signs.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials as they are at this moment; `token` is "" for long-lived ones."""

    access: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


def quoted_path(path: str) -> str:
    """A path as S3 wants it, in the request line and in the signature: once, everything but unreserved and slashes."""
    return quote(path, safe="/")


def quoted_query(query: Mapping[str, str]) -> str:
    """A query string in canonical order and quoting."""
    quoted = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in quoted)


def signed(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    *,
    keys: Keys,
    region: str,
    now: datetime,
    payload: str = UNSIGNED,
) -> dict[str, str]:
    """The headers (lower-case names, `host` among them) with those of the signature added; all of them are signed.

    `path` and `query` are quoted already, `payload` is the SHA-256 of the body in hex, `now` is in UTC.
    """
    # By hand, since strftime takes ten times as long.
    stamp = f"{now.year:04}{now.month:02}{now.day:02}T{now.hour:02}{now.minute:02}{now.second:02}Z"
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    together = dict(headers) | {"x-amz-content-sha256": payload, "x-amz-date": stamp}
    if keys.token:
        together["x-amz-security-token"] = keys.token
    names = sorted(together)
    lines = "".join(f"{name}:{' '.join(together[name].split())}\n" for name in names)
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{';'.join(names)}\n{payload}"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = _mac(_signing_key(keys.secret, stamp[:8], region), to_sign).hex()
    together["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return together


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    return _mac(_mac(_mac(_mac(f"AWS4{secret}".encode(), day), region), "s3"), "aws4_request")


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
