"""May this URL be fetched, may this address be connected to: pure, no look-up is made here.

A URL is read by one narrow grammar of our own: whatever `urlsplit` and a socket could read differently (user info,
backslashes, white space, control characters, percent signs or foreign letters in the host, a trailing dot) is refused
instead of repaired.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urlsplit

from storage.errors import Refused

URL_CHARACTERS_MAX = 16_384
"""Signed links run to 2,000 characters; servers stop at 8 to 16 KiB."""

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?#].*)?",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_ALL_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F))
_STANDARD_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect and what to ask for. `path` is the request target: path and query, visible ASCII only."""

    scheme: str
    host: str
    port: int
    path: str
    private_allowed: bool

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def host_header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _STANDARD_PORT[self.scheme] else f"{name}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.path}"


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Where files may be fetched from.

    `names` are bare hosts: https on port 443, subdomains included, public addresses only. `origins` are whole origins:
    exactly that scheme, host and port, private addresses allowed.
    """

    names: frozenset[str]
    origins: frozenset[tuple[str, str, int]]

    @classmethod
    def parse(cls, text: str) -> "AllowedHosts":
        """Read a space-separated list of bare hosts and whole origins. Raises ValueError naming the bad entry."""
        names, origins = set[str](), set[tuple[str, str, int]]()
        for entry in text.split():
            if "://" in entry:
                origins.add(_parse_origin(entry))
            else:
                names.add(_parse_name(entry))
        return cls(frozenset(names), frozenset(origins))

    def allows(self, url: str) -> bool:
        """Would `check` let this pass."""
        try:
            self.check(url)
        except Refused:
            return False
        return True

    def check(self, url: str) -> Target:
        """Read a URL strictly and say where it leads. Raises Refused with the reason (the URL is not repeated)."""
        scheme, host, port, path = _read(url)
        if (scheme, host, port) in self.origins:
            return Target(scheme, host, port, path, private_allowed=True)
        if not self._named(host):
            raise Refused(f"The host {host} is not among those that outputs may be fetched from.")
        if scheme != "https" or port != 443:
            raise Refused(f"From {host} only https on port 443 may be fetched.")
        return Target(scheme, host, port, path, private_allowed=False)

    def _named(self, host: str) -> bool:
        return any(host == name or host.endswith("." + name) for name in self.names)


def forbidden(address: str | IPv4Address | IPv6Address) -> str | None:
    """Why an IP address must not be connected to for a public host, or None if it is an ordinary public one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "not an IP address"
    for network, reason in _FORBIDDEN[parsed.version]:
        if parsed in network:
            return reason
    return None


def _read(url: str) -> tuple[str, str, int, str]:
    if len(url) > URL_CHARACTERS_MAX:
        raise Refused(f"The URL is longer than {URL_CHARACTERS_MAX} characters.")
    if not url.isprintable() or " " in url or "\\" in url:
        raise Refused("The URL holds white space, control characters or a backslash.")
    match = _URL.fullmatch(url)
    if match is None:
        raise Refused("The URL is not a plain http or https URL (user info and foreign letters in the host count too).")
    scheme, host = match["scheme"].lower(), match["host"].lower()
    port = int(match["port"]) if match["port"] else _STANDARD_PORT[scheme]
    if not 0 < port < 65_536:
        raise Refused("The URL's port is not between 1 and 65535.")
    host = _checked_host(host)
    _agree_with_urlsplit(url, scheme, host, port)
    rest = (match["rest"] or "").partition("#")[0]
    path = rest if rest.startswith("/") else "/" + rest
    return scheme, host, port, path if path.isascii() else quote(path, safe=_ALL_VISIBLE)


def _checked_host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise Refused("The URL's host is not an IPv6 address.") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise Refused("The URL's host is not a plain host name.")
    last = host.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        # "127.1", "0x7f000001" and "2130706433" are addresses to a socket and names to a parser.
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise Refused("The URL's host is a number that is not an IPv4 address.") from None
    return host


def _agree_with_urlsplit(url: str, scheme: str, host: str, port: int) -> None:
    try:
        parts = urlsplit(url)
        same = parts.scheme == scheme and (parts.port or _STANDARD_PORT[scheme]) == port and parts.username is None
        other_host = parts.hostname or ""
    except ValueError:
        raise Refused("The URL can be read in more than one way.") from None
    same_host = other_host == host or (":" in host and IPv6Address(other_host) == IPv6Address(host))
    if not same or not same_host:
        raise Refused("The URL can be read in more than one way.")


def _parse_origin(entry: str) -> tuple[str, str, int]:
    try:
        scheme, host, port, path = _read(entry)
    except Refused as error:
        raise ValueError(f"{entry!r} is no origin: {error} Right would be http://127.0.0.1:9100.") from None
    if path != "/" or "?" in entry or "#" in entry:
        raise ValueError(f"{entry!r} has a path: an origin ends after the port, like http://127.0.0.1:9100.")
    return scheme, host, port


def _parse_name(entry: str) -> str:
    try:
        host = _checked_host(entry.lower())
    except Refused:
        host = ""
    if not host or ":" in host or host.rpartition(".")[2].isdigit():
        raise ValueError(
            f"{entry!r} is no bare host name: right would be replicate.delivery, or a whole origin like http://127.0.0.1:9100."
        )
    return host


def _table(*rows: tuple[str, str]) -> tuple[tuple[IPv4Network | IPv6Network, str], ...]:
    return tuple((ip_network(network), reason) for network, reason in rows)


# IANA's special-purpose registries (RFC 6890 and its updates), and what clouds use for their metadata.
# `ipaddress.is_private` misses about half of these, and differs between Python versions.
_FORBIDDEN = {
    4: _table(
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),
        ("169.254.169.254/32", "cloud metadata"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "multicast tunnelling"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    ),
    6: _table(
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("100::/64", "discard"),
        ("100:0:0:1::/64", "dummy"),
        ("2001::/32", "Teredo"),
        ("2001:2::/48", "benchmarking"),
        ("2001:10::/28", "ORCHID"),
        ("2001:20::/28", "ORCHID"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "AS112"),
        ("3ffe::/16", "6bone"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fd00:ec2::254/128", "cloud metadata"),
        ("fd20:ce::254/128", "cloud metadata"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
        # Only 2000::/3 is handed out as global unicast; the rest is reserved.
        ("::/3", "reserved"),
        ("4000::/2", "reserved"),
        ("8000::/1", "reserved"),
    ),
}
