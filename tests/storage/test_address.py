import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.address import AllowedHosts, forbidden
from storage.errors import Refused

HOSTS = AllowedHosts.parse("replicate.delivery http://127.0.0.1:9100 https://[::1]:9443 https://localhost")

# One address of each network that a public name must not lead to, written down from the IANA registries and the
# clouds' documents, apart from the table in the code.
NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.254",
    "127.0.0.1",
    "127.255.0.1",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.5",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.1.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:0:8.8.8.8",
    "::8.8.8.8",
    "::7f00:1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:1::1",
    "2001:2::1",
    "2001:3::1",
    "2001:4:112::1",
    "2001:10::1",
    "2001:20::1",
    "2001:30::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "2620:4f:8000::1",
    "3ffe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "200::1",
    "400::1",
    "1000::1",
    "4000::1",
    "6000::1",
    "8000::1",
    "a000::1",
    "c000::1",
    "e000::1",
    "f000::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "34.120.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "198.17.0.1",
    "223.255.255.255",
    "2606:4700::1",
    "2a00:1450::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2620:4f:8001::1",
    "2400::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public_are_forbidden(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_not_forbidden(address: str) -> None:
    assert forbidden(address) is None


def test_what_is_no_address_is_forbidden() -> None:
    assert forbidden("example.com")
    assert forbidden("")


@given(st.ip_addresses())
def test_nothing_that_the_standard_library_calls_private_passes(address: ipaddress.IPv4Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        # Anycast blocks that it calls global are within what we forbid; the reverse must never be.
        assert forbidden(address)


def test_a_bare_host_means_https_on_443_with_its_subdomains_on_public_addresses() -> None:
    target = HOSTS.check("https://replicate.delivery/pbxt/a.png?x=1#y")
    assert (target.scheme, target.host, target.port, target.path) == (
        "https",
        "replicate.delivery",
        443,
        "/pbxt/a.png?x=1",
    )
    assert not target.private_allowed
    for url in (
        "https://pbxt.replicate.delivery/a",
        "HTTPS://A.B.Replicate.Delivery:443/a",
        "https://replicate.delivery",
    ):
        assert HOSTS.allows(url)


def test_a_whole_origin_means_exactly_that_origin() -> None:
    assert HOSTS.check("http://127.0.0.1:9100/a").private_allowed
    assert HOSTS.check("https://localhost/a").private_allowed
    six = HOSTS.check("https://[0:0::1]:9443/a")
    assert (six.host, six.host_header, six.url) == ("::1", "[::1]:9443", "https://[::1]:9443/a")
    for url in (
        "https://127.0.0.1:9100/a",
        "http://127.0.0.1/a",
        "http://127.0.0.1:9101/a",
        "http://127.0.0.2:9100/a",
        "https://a.localhost/a",
        "https://[::2]:9443/a",
    ):
        assert not HOSTS.allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://replicate.delivery/a",
        "https://replicate.delivery:8443/a",
        "https://replicate.delivery.evil.com/a",
        "https://evilreplicate.delivery/a",
        "https://evil.com/replicate.delivery",
        "https://evil.com/a?https://replicate.delivery/",
        "https://replicate.delivery@evil.com/a",
        "https://user@replicate.delivery/a",
        "https://user:pw@replicate.delivery/a",
        "https://@replicate.delivery/a",
        "https://replicate.delivery./a",
        "https://replicate.delivery../a",
        "https://.replicate.delivery/a",
        "https://a..replicate.delivery/a",
        "https://replicate.delivery%2f.evil.com/a",
        "https://replicate%2edelivery/a",
        "https://evil.com%23.replicate.delivery/",
        "https://replicate.delivery\\@evil.com/",
        "https://evil.com\\.replicate.delivery/",
        "https:\\\\replicate.delivery/a",
        "https:/replicate.delivery/a",
        "https:replicate.delivery/a",
        "//replicate.delivery/a",
        "ftp://replicate.delivery/a",
        "file:///etc/passwd",
        "data:text/plain,x",
        "javascript:alert(1)",
        "gopher://replicate.delivery/",
        "https://replicate.delivery:0/a",
        "https://replicate.delivery:65536/a",
        "https://replicate.delivery:443443/a",
        "https://replicate.delivery:/a",
        "https://replicate.delivery:+443/a",
        "https://replicate.delivery:４４３/a",
        "https://ｒeplicate.delivery/a",
        "https://replicate。delivery/a",
        "https://replicaté.delivery/a",
        "https://-.replicate.delivery/a",
        "https://a_b.replicate.delivery/a",
        "https://[replicate.delivery]/a",
        "https://[::1/a",
        "https://[::ffff:1.2.3.4%25eth0]/",
        "https://replicate.delivery;evil.com/a",
        "https://evil.com;.replicate.delivery/",
        "https://replicate.delivery,evil.com/",
        "http://127.1:9100/",
        "http://0x7f000001:9100/",
        "http://2130706433:9100/",
        "http://127.0.0.1.:9100/",
        "http://0177.0.0.1:9100/",
        "https://1.0x7f.replicate.0x1/",
        "https:///replicate.delivery",
        "https://?replicate.delivery",
        "https://#@replicate.delivery/",
    ],
)
def test_tricks_are_refused(url: str) -> None:
    assert not HOSTS.allows(url)
    with pytest.raises(Refused) as caught:
        HOSTS.check(url)
    assert str(caught.value).endswith((".", ")."))


@pytest.mark.parametrize("space", ["\t", "\n", "\r", " ", "\0", "\x0b", "\x7f", "\u00a0", "\u2028", "\ud800", "\u200b"])
def test_white_space_and_control_characters_are_refused_wherever_they_stand(space: str) -> None:
    url = "https://replicate.delivery/a"
    for at in range(len(url) + 1):
        assert not HOSTS.allows(url[:at] + space + url[at:])


def test_a_host_that_is_a_bare_address_must_be_listed_as_an_origin() -> None:
    assert not AllowedHosts.parse("replicate.delivery").allows("https://8.8.8.8/a")
    assert not AllowedHosts.parse("replicate.delivery").allows("https://[2606:4700::1]/a")


def test_an_overlong_url_is_refused() -> None:
    assert HOSTS.allows("https://replicate.delivery/" + "a" * 10_000)
    assert not HOSTS.allows("https://replicate.delivery/" + "a" * 20_000)
    assert not HOSTS.allows("https://" + "a." * 120 + "replicate.delivery/")


def test_letters_beyond_ascii_in_the_path_go_out_percent_encoded() -> None:
    assert HOSTS.check("https://replicate.delivery/ä b.png".replace(" ", "%20")).path == "/%C3%A4%20b.png"
    assert HOSTS.check("https://replicate.delivery?q").path == "/?q"


@given(st.text(alphabet="htps:/@\\.?#[]%aé.0x_-", max_size=40), st.text(max_size=5))
@example("https://replicate.delivery", "@evil")
def test_what_is_allowed_is_read_alike_by_the_standard_library(tail: str, odd: str) -> None:
    for url in (f"https://{tail}replicate.delivery{odd}", f"https://replicate.delivery{odd}{tail}", tail + odd):
        try:
            target = HOSTS.check(url)
        except Refused:
            continue
        parts = urlsplit(url)
        assert parts.hostname == target.host
        assert target.host == "replicate.delivery" or target.host.endswith(".replicate.delivery")
        assert (parts.port or 443) == 443
        assert parts.username is None
        assert target.path.isascii()
        assert not any(character in target.path for character in " \r\n\t\\#")


@pytest.mark.parametrize(
    "entry",
    [
        "http://127.0.0.1:9100/path",
        "http://u@h",
        "ftp://h",
        "h/",
        "h:443",
        "127.0.0.1",
        "a..b",
        "*",
        "*.h",
        "h.",
        "http://h?",
        "[::1]",
        "é.com",
    ],
)
def test_a_wrong_entry_is_named_with_what_would_be_right(entry: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9100") as caught:
        AllowedHosts.parse(f"replicate.delivery {entry}")
    assert repr(entry) in str(caught.value)


def test_an_empty_list_allows_nothing() -> None:
    assert not AllowedHosts.parse("  ").allows("https://replicate.delivery/")
