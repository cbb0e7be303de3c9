"""Who may come in: keys and their scopes; without any key, this machine alone."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from receiver.runtime.keys import ADMIN, CREATE, READ, Key, Keys
from receiver.runtime.parsing import is_loopback
from receiver.web.problems import UNAUTHENTICATED, Problem, retry_after

Headers = Sequence[tuple[bytes, bytes]]

_LINK = r"[A-Za-z0-9_-]{22}"
_FILE = re.compile(rf"/files/{_LINK}/[^/]+")
_KEYLESS = re.compile(r"/(?:streams/[^/]+|shared/[^/]+|schemas/.*|ui/login|ui/static/.*|healthz|readyz)", re.DOTALL)
_REPLICATE = re.compile(
    r"/(?:v1|predictions|models|deployments|trainings|collections|hardware|account|search)(?:/.*)?", re.DOTALL
)
_CREATING = re.compile(r".*/predictions(?:/[^/]*/cancel)?|(?:/v1){1,2}/files", re.DOTALL)
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(\d{1,5}))?", re.ASCII)
_AUTHORIZATION = re.compile(r"(Bearer|Token) +(\S+) *", re.ASCII | re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SAME_SITE = frozenset((b"same-origin", b"none"))  # a page of ours, or the user's own typing
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_MINUTE_S = 60.0


def is_replicates(path: str) -> bool:
    """Whether a path belongs to Replicate's API as spoken by us, where errors have Replicate's shape."""
    return _REPLICATE.fullmatch(path) is not None


def is_keyless(method: str, path: str) -> bool:
    """Whether a request needs no key. Webhooks never get here; a preflight tells nothing but what scripts may ask."""
    if _FILE.fullmatch(path):
        return method in _SAFE_METHODS
    return _KEYLESS.fullmatch(path) is not None


def scope_of(method: str, path: str) -> str:
    """Which scope a request needs: reading, making predictions and their input files, stopping them, or all else."""
    if method in _SAFE_METHODS:
        return READ
    return CREATE if method == "POST" and is_replicates(path) and _CREATING.fullmatch(path) else ADMIN


@dataclass(slots=True)
class Guard:
    """`clock` gives seconds that never go back."""

    keys: Keys
    public_url: str
    clock: Callable[[], float]
    _minutes: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def admit(self, method: str, path: str, headers: Headers, *, port: int | None) -> Key | None:
        """The key that a request came with, None where none is needed; Problem when it may not come in.

        `port` is where the request arrived, None when unknown.
        """
        if is_keyless(method, path):
            return None
        if not self.keys.required:
            self._refuse_strangers(headers, port)
            return None
        key = self._key(headers, path)
        needed = scope_of(method, path)
        if not key.may(needed):
            raise Problem(403, "Forbidden", f"The key {key.name!r} does not have the scope {needed!r}.")
        self._count(key, "requests", key.requests_per_minute)
        if needed == CREATE:
            self._count(key, "predictions", key.predictions_per_minute)
        return key

    def _key(self, headers: Headers, path: str) -> Key:
        presented = [value for name, value in headers if name == b"authorization"]
        match = _AUTHORIZATION.fullmatch(presented[0].decode("latin-1")) if len(presented) == 1 else None
        if match and (match[1].lower() == "bearer" or is_replicates(path)):
            key = self.keys.find(match[2])
            if key is not None:
                return key
        told = UNAUTHENTICATED if is_replicates(path) else None
        detail = "This needs a key of this Outkeep: Authorization: Bearer KEY."
        raise Problem(401, "Unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"}, body=told)

    def _count(self, key: Key, what: str, limit: int | None) -> None:
        """A minute begins with the first request after the one before."""
        if limit is None:
            return
        now_s = self.clock()
        began_s, count = self._minutes.get((key.name, what), (now_s, 0))
        if now_s - began_s >= _MINUTE_S:
            began_s, count = now_s, 0
        if count >= limit:
            wait_s = _MINUTE_S - (now_s - began_s)
            detail = f"Request was throttled. The key {key.name!r} may make {limit} {what} a minute."
            header = retry_after(wait_s)
            told = {"retry_after": int(header["Retry-After"])}
            raise Problem(429, "Too many requests", detail, headers=header, body=told)
        self._minutes[key.name, what] = (began_s, count + 1)

    def _refuse_strangers(self, headers: Headers, port: int | None) -> None:
        """Without keys a proxy, a tunnel or a page of somebody else must not turn the world into loopback."""
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_ours(hosts[0].decode("latin-1"), "http", port):
            raise _stranger("under this Host")
        for name, value in headers:
            if name == b"forwarded" or name.startswith(b"x-forwarded-"):
                raise _stranger("through a proxy")
            if name == b"sec-fetch-site" and value.strip().lower() not in _SAME_SITE:
                raise _stranger("for pages of other sites")
            if name == b"origin" and not self._is_our_origin(value.decode("latin-1"), port):
                raise _stranger("for pages of other origins")

    def _is_our_origin(self, origin: str, port: int | None) -> bool:
        scheme, separator, host = origin.partition("://")
        return bool(separator) and scheme in _DEFAULT_PORTS and self._is_ours(host, scheme, port)

    def _is_ours(self, host: str, scheme: str, port: int | None) -> bool:
        """A loopback name with the port we listen on, or the name and port of the public URL."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        told = int(match[2]) if match[2] else _DEFAULT_PORTS[scheme]
        public = urlsplit(self.public_url)
        public_port = public.port or _DEFAULT_PORTS[public.scheme]
        if (match[1].strip("[]").lower(), told) == (public.hostname, public_port):
            return True
        return is_loopback(match[1]) and (port is None or told == port)


def _stranger(how: str) -> Problem:
    return Problem(403, "Forbidden", f"Without OUTKEEP_API_KEYS this Outkeep serves its own machine, not {how}.")
