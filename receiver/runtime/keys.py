"""API keys: who may use the API, each with its scopes and limits; kept and compared as SHA-256 only."""

import hashlib
import hmac
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from receiver.core.errors import Misconfigured
from receiver.runtime.settings import Settings

READ, CREATE, ADMIN = "read", "create", "admin"
SCOPES = frozenset((READ, CREATE, ADMIN))

KEYS_MAX = 1_000
"""Keys in one file: each request compares with all of them, so that time tells nothing (0.2 ms at this many)."""

KEY_LENGTH_MAX = 1024  # characters of a presented key that are looked at; ours are far shorter

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_LIMITS = ("requests_per_minute", "predictions_per_minute")
_LIMIT_MAX = 1_000_000
_FIELDS = frozenset(("name", "sha256", "scopes", "limits"))


@dataclass(frozen=True, slots=True)
class Key:
    """One key, known by its name; `admin` holds every scope. A limit that is None does not limit."""

    name: str
    scopes: frozenset[str] = SCOPES
    requests_per_minute: int | None = None
    predictions_per_minute: int | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or ADMIN in self.scopes


class Keys:
    """All keys. `required` is False only when there is none at all, and then only loopback is served."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        """`keys` by the SHA-256 of the key, 64 lower-case hex digits."""
        self._keys = {digest.encode("ascii"): key for digest, key in keys.items()}

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """The keys of `OUTKEEP_API_KEYS` and `OUTKEEP_KEYS_FILE`; Misconfigured for a file that makes no sense."""
        named = {_sha256(key.encode("ascii")): Key(name) for name, key in settings.api_keys}
        if len(named) < len(settings.api_keys):
            raise Misconfigured("OUTKEEP_API_KEYS is wrong: two names have the same key.")
        if settings.keys_file is not None:
            for digest, key in _from_file(settings.keys_file):
                if digest in named or key.name in {other.name for other in named.values()}:
                    raise _wrong(f"the key {key.name!r} is there twice (keys and names are unique)")
                named[digest] = key
        return cls(named)

    @property
    def required(self) -> bool:
        return bool(self._keys)

    def find(self, presented: str) -> Key | None:
        """The key with this text, or None; as slow for a wrong key as for the right one."""
        if len(presented) > KEY_LENGTH_MAX:
            return None
        digest = _sha256(presented.encode("latin-1", "replace")).encode("ascii")
        found = None
        for known, key in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = key
        return found


def _from_file(path: Path) -> list[tuple[str, Key]]:
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _wrong(f"{str(path)!r} can't be read ({error.strerror})") from error
    except ValueError as error:
        raise _wrong(f"{str(path)!r} is not TOML ({error})") from None
    entries = told.get("keys")
    if set(told) != {"keys"} or not isinstance(entries, list) or not 1 <= len(entries) <= KEYS_MAX:
        raise _wrong(f"{str(path)!r} has to hold [[keys]] tables, each with name, sha256, scopes, and nothing else")
    return [_entry(entry) for entry in entries]


def _entry(told: Any) -> tuple[str, Key]:
    name = told.get("name") if isinstance(told, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong("every key needs a name of up to 64 letters, digits, dots, dashes and underscores")
    if odd := sorted(set(told) - _FIELDS):
        raise _wrong(f"the key {name!r} has {odd[0]!r}, known are name, sha256, scopes and limits")
    digest = told.get("sha256")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _wrong(f"the sha256 of {name!r} is not 64 hex digits (`printf %s KEY | sha256sum` makes them)")
    return digest.lower(), Key(name, _scopes(name, told.get("scopes")), **_limits(name, told.get("limits", {})))


def _scopes(name: str, told: Any) -> frozenset[str]:
    if not isinstance(told, list) or not told or not all(isinstance(scope, str) and scope in SCOPES for scope in told):
        raise _wrong(f"the scopes of {name!r} are not a list of read, create, admin")
    return frozenset(told)


def _limits(name: str, told: Any) -> dict[str, int]:
    plain = isinstance(told, dict) and set(told) <= set(_LIMITS)
    if not plain or not all(type(limit) is int and 1 <= limit <= _LIMIT_MAX for limit in told.values()):
        raise _wrong(f"the limits of {name!r} are not whole numbers named {' or '.join(_LIMITS)}")
    return dict(told)


def _wrong(what: str) -> Misconfigured:
    return Misconfigured(f"OUTKEEP_KEYS_FILE is wrong: {what}.")


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
