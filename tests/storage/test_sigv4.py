"""Signatures of S3 requests, with botocore as the oracle."""

from datetime import UTC, datetime
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.sigv4 import Keys, quoted_path, quoted_query, signed

PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(key=PLAIN, query=st.dictionaries(VALUES, VALUES, max_size=3), value=VALUES, token=st.just("") | VALUES)
def test_a_signature_is_what_botocore_would_have_made(key: str, query: dict[str, str], value: str, token: str) -> None:
    path, asked = quoted_path(f"/bucket/{key}"), quoted_query(query)
    url = f"https://s3.example.com:9000{path}" + (f"?{asked}" if asked else "")
    theirs = AWSRequest("PUT", url, headers={"x-amz-meta-thing": value, "content-type": "a/b"})
    S3SigV4Auth(Credentials("AKIA/x", "secret", token or None), "s3", "eu-north-1").add_auth(theirs)
    stamp = datetime.strptime(theirs.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    ours = signed(
        "PUT",
        path,
        asked,
        {"host": urlsplit(url).netloc, "x-amz-meta-thing": value, "content-type": "a/b"},
        keys=Keys("AKIA/x", "secret", token),
        region="eu-north-1",
        now=stamp,
        payload=theirs.headers["X-Amz-Content-SHA256"],
    )

    assert ours["authorization"] == theirs.headers["Authorization"]


def test_credentials_do_not_show() -> None:
    assert "hush" not in repr(Keys("AKIA", "hush", "hush"))
