import base64
import contextlib
import os
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.data_uri import content_type, decode, is_data_uri
from storage.errors import Gone, Refused


def whole(uri: str, bytes_max: int = 10_000_000) -> bytes:
    return b"".join(decode(uri, bytes_max))


@pytest.mark.parametrize(
    ("uri", "kind", "data"),
    [
        ("data:,", "text/plain", b""),
        ("data:,A%20b", "text/plain", b"A b"),
        ("data:;base64,QUI=", "text/plain", b"AB"),
        ("DATA:Image/PNG;base64,QUI", "image/png", b"AB"),
        ("data:image/svg+xml;utf8,<svg a='b,c'/>", "image/svg+xml", b"<svg a='b,c'/>"),
        ("data:text/plain;charset=utf-8;base64,4pyT", "text/plain", "✓".encode()),
        ("data:text/plain,✓", "text/plain", "✓".encode()),
        ("data:a/b;name=x.png;BASE64,QU\n J D\tRA==", "a/b", b"ABCD"),
        ("data:a/b;base64,QU%4ADRA%3D%3D", "a/b", b"ABCD"),
        ("data:a/b;base64,_-8", "a/b", b"\xff\xef"),
        ("data:nonsense,x", "text/plain", b"x"),
    ],
)
def test_forms_of_data_uris_are_understood(uri: str, kind: str, data: bytes) -> None:
    assert is_data_uri(uri)
    assert (content_type(uri), whole(uri)) == (kind, data)


@pytest.mark.parametrize(
    "uri",
    [
        "data:",
        "data:image/png;base64",
        "data:;base64,a",
        "data:;base64,QUI=QUI=",
        "data:;base64,Q*==",
        "data:;base64,QUIé",
        "data:;base64,%zz",
        "data:,%",
        "data:,%4",
        "data:,%gg",
        "data:,\ud800",
    ],
)
def test_malformed_data_uris_are_gone(uri: str) -> None:
    with pytest.raises(Gone, match="data: URI"):
        whole(uri)


def test_a_data_uri_above_the_cap_is_refused() -> None:
    assert whole("data:,abc", 3) == b"abc"
    for uri in ("data:,abcd", "data:;base64,YWJjZA=="):
        with pytest.raises(Refused, match="3 bytes"):
            whole(uri, 3)


def test_a_long_data_uri_comes_in_pieces_whatever_is_cut() -> None:
    data = os.urandom(2_500_003)
    text = base64.b64encode(data).decode()
    assert whole("data:;base64," + text) == data
    assert whole("data:;base64," + "\n".join(text[at : at + 77] for at in range(0, len(text), 77))) == data
    assert whole("data:;base64," + text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3d")) == data
    assert whole("data:," + quote_from_bytes(data[:600_000], safe="")) == data[:600_000]
    assert whole("data:;base64," + "QUJD" * 262_143 + "QUI==" + "=") == b"ABC" * 262_143 + b"AB"


@given(st.binary(max_size=200))
def test_every_file_survives_both_forms(data: bytes) -> None:
    assert whole("data:;base64," + base64.b64encode(data).decode()) == data
    assert whole("data:," + quote(data)) == data


@given(st.text(max_size=60))
def test_nothing_but_our_own_errors_comes_of_any_text(text: str) -> None:
    for uri in ("data:" + text, "data:;base64," + text):
        content_type(uri)
        with contextlib.suppress(Gone):
            whole(uri)
