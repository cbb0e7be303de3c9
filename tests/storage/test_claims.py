import base64
import hashlib

import pytest

from storage.claims import read_claims, read_content_range

MD5 = hashlib.md5(b"x").hexdigest()
GOOG = base64.b64encode(bytes.fromhex(MD5)).decode()


def test_a_size_that_differs_contradicts_whatever_the_hash() -> None:
    claims = read_claims({"etag": f'"{MD5}"'}, 10)
    assert claims.contradicts(9, MD5)
    assert not claims.contradicts(10, MD5)


@pytest.mark.parametrize(
    "etag", ["", MD5, f'W/"{MD5}"', f'"{MD5}-3"', f'"{MD5[:-1]}"', '"zz' + MD5[2:] + '"', '"5f3c-62a"']
)
def test_an_etag_that_is_no_strong_md5_claims_nothing(etag: str) -> None:
    claims = read_claims({"etag": etag}, None)
    assert not claims.wants_md5
    assert not claims.contradicts(5, "")


@pytest.mark.parametrize(
    "value", ["", "crc32c=AAAAAA==", "md5=", "md5=!!!!", "md5=QUJD", f"sha256={GOOG}", "md5=\u00e9"]
)
def test_a_google_hash_that_is_no_md5_claims_nothing(value: str) -> None:
    assert not read_claims({"x-goog-hash": value}, None).wants_md5


def test_a_google_hash_is_read_among_others_and_from_repeated_headers() -> None:
    for value in (f"md5={GOOG}", f"crc32c=AAAAAA==,md5={GOOG}", f"crc32c=AAAAAA==, MD5={GOOG}"):
        assert read_claims({"x-goog-hash": value, "x-goog-stored-content-encoding": "Identity"}, 1).goog_md5 == MD5


def test_only_a_strong_etag_or_a_date_serves_to_resume() -> None:
    assert read_claims({"etag": '"a"', "last-modified": "day"}, 1).validator == '"a"'
    assert read_claims({"etag": 'W/"a"', "last-modified": "day"}, 1).validator == "day"
    assert read_claims({"etag": "bare"}, 1).validator == ""


def test_few_headers_are_kept_and_none_is_long() -> None:
    kept = read_claims({"etag": "x" * 5000, "set-cookie": "secret", "content-type": "a/b"}, 1).headers
    assert kept == {"etag": "x" * 1024, "content-type": "a/b"}


def test_content_ranges_are_read_strictly() -> None:
    assert read_content_range("bytes 5-9/10") == (5, 9, 10)
    assert read_content_range("bytes 5-9/*") == (5, 9, None)
    for text in ("", "bytes */10", "bytes 5-9", "bytes -5-9/10", "octets 5-9/10", "bytes 5-9/10 "):
        assert read_content_range(text) is None
