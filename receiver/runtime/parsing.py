"""Reading the texts of settings. Every function raises ValueError with what would have been right."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_PRIVATE = re.compile(r"(?<=//)\S*(?=@)|(?<=\?)\S+")
_KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY_LENGTH_MIN = 20  # characters; shorter ones can be guessed
_LOCAL_NAMES = frozenset(("localhost", "localhost.localdomain", "ip6-localhost"))


def whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text, re.ASCII) or not least <= float(text) <= most:
            raise ValueError(f"a number of seconds from {least:.9g} to {most:.9g}")
        return float(text)

    return parse


def byte_count(text: str) -> int:
    """`20GiB`, `500 MB`, `1048576`: KB is 1,000 and KiB is 1,024."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ValueError("a size like 20GiB, 500MB or 1048576")
    number, unit = match.group(1), (match.group(2) or "").upper()
    size = int(float(number) * (1024 if "I" in unit else 1000) ** _POWERS[unit.replace("I", "").replace("B", "")])
    if size < 1:
        raise ValueError("a size of at least one byte")
    return size


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return parse


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a path")
    return Path(text).expanduser()


def host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", text, re.ASCII):
        raise ValueError("an address or host name to listen on, like 127.0.0.1 or 0.0.0.0")
    return text


def port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
        raise ValueError("a port from 0 to 65535 (0 takes any free one)")
    return int(text)


def token(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{4,512}", text, re.ASCII):
        raise ValueError("a token as Replicate shows it (r8_…)")
    return text


def web_url(text: str) -> str:
    """An http or https URL without user, query or fragment; given back without a slash at its end."""
    right = "an http:// or https:// URL without user name, query or fragment"
    try:
        parts = urlsplit(text)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError(right) from None
    odd = parts.username or parts.password or parts.query or parts.fragment or re.search(r"[\s\\<>\"]", text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port or odd:
        raise ValueError(right)
    return text.rstrip("/")


def database_url(text: str) -> str:
    if text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
        return text
    if text.startswith(("postgresql://", "postgres://")):
        return "postgresql://" + text.partition("://")[2]
    raise ValueError("sqlite:///path or postgresql://user:password@host/name")


def bucket_url(text: str) -> str:
    if text.startswith("file:") and len(text) > len("file:"):
        return text
    if re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,253}(/[^\s?#]*)?", text, re.ASCII):
        return text.rstrip("/")
    raise ValueError("file:PATH or s3://bucket or s3://bucket/prefix")


def shown(text: str) -> str:
    """A wrong value as it may be repeated."""
    return repr(_without_secrets(text))


def _without_secrets(text: str) -> str:
    """User name and query of a URL may hold one."""
    return _PRIVATE.sub("…", text)


def output_hosts(text: str) -> str:
    from storage.address import AllowedHosts  # noqa: PLC0415 - its rules, its sentence
    from storage.errors import StorageError  # noqa: PLC0415

    try:
        AllowedHosts.parse(text)
    except (ValueError, StorageError) as error:
        raise ValueError(f"a list of host names or origins: {_without_secrets(str(error)).rstrip('.')}") from None
    return text


def secret(text: str) -> str:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("whsec_ and 24 to 64 bytes in base64")
    return text


def secrets(text: str) -> tuple[str, ...]:
    return tuple(secret(word) for word in text.split())


def named_keys(text: str) -> tuple[tuple[str, str], ...]:
    """`name=key` pairs, split at the first `=`."""
    pairs = [tuple(word.partition("=")[::2]) for word in text.split()]
    for name, key in pairs:
        if not _KEY_NAME.fullmatch(name) or len(key) < KEY_LENGTH_MIN or not key.isascii():
            raise ValueError(f"name=key pairs, separated by spaces, with keys of {KEY_LENGTH_MIN} characters or more")
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("name=key pairs with every name once")
    return tuple((name, key) for name, key in pairs)


def is_loopback(name: str) -> bool:
    """Whether a host name or address means this machine alone."""
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower().rstrip(".") in _LOCAL_NAMES or name.lower().endswith(".localhost")


def is_loopback_url(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")
