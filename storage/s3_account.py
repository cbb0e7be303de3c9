"""Who we are to S3 and where a bucket answers, as boto3's own settings say."""

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from storage.errors import BucketMisconfigured
from storage.s3_errors import from_botocore
from storage.s3_http import Origin
from storage.sigv4 import Keys

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
else:
    S3Client = Any

# Checksums only where we ask for them: the defaults of newer versions break R2, MinIO and B2. One attempt: retrying is
# for one layer alone, and that is not this one.
CLIENT = Config(
    signature_version="s3v4",
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    retries={"total_max_attempts": 1, "mode": "standard"},
    connect_timeout=10,
    read_timeout=60,
    max_pool_connections=16,
)

_SCOPE = re.compile(r"Credential=.+/\d{8}/([^/]+)/s3/aws4_request")


@dataclass(frozen=True)
class Account:
    """A client for control calls, and what is needed to send data ourselves just as that client would.

    `path` is what stands before the key in a request's path, unquoted, ending with a slash.
    """

    bucket: str
    client: "S3Client"
    credentials: Credentials
    region: str
    origin: Origin
    path: str

    def keys(self) -> Keys:
        """The credentials of this moment, refreshed by botocore where they run out. Raises StorageError."""
        try:
            frozen = self.credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise from_botocore(error, self.bucket) from error
        return Keys(frozen.access_key or "", frozen.secret_key or "", frozen.token or "")


def connect(bucket: str) -> Account:
    """The account that boto3's settings (environment, profiles, roles) describe. Raises BucketMisconfigured."""
    try:
        session = botocore.session.get_session()
        client: S3Client = cast("Any", session.create_client("s3", config=CLIENT))
        credentials = session.get_credentials()
        url, authorization = _seen_request(client, bucket)
        tls = _tls(session.get_config_variable("ca_bundle")) if url.startswith("https:") else None
    except (BotoCoreError, ClientError, ValueError, OSError) as error:
        raise from_botocore(error, bucket) from error
    scope = _SCOPE.search(authorization)
    if not scope or credentials is None:
        raise BucketMisconfigured(f"The bucket {bucket} can't be used: it must be a plain bucket with credentials.")
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)
    proxy = str(get_environ_proxies(url).get(parts.scheme, ""))
    path = unquote(parts.path).removesuffix("k")
    return Account(bucket, client, credentials, scope[1], Origin(host, port, tls, proxy), path)


def _seen_request(client: "S3Client", bucket: str) -> tuple[str, str]:
    """URL and Authorization of a request that never leaves: only boto3 itself knows all its rules about endpoints."""
    seen: list[AWSPreparedRequest] = []

    def keep(request: AWSPreparedRequest, **_: Any) -> Any:
        seen.append(request)
        return AWSResponse(request.url, 200, HTTPHeaders(), _Nothing())

    client.meta.events.register("before-send.s3.HeadObject", keep)
    try:
        client.head_object(Bucket=bucket, Key="k")
    finally:
        client.meta.events.unregister("before-send.s3.HeadObject", keep)
    authorization: Any = seen[0].headers["Authorization"]
    return seen[0].url, authorization.decode() if isinstance(authorization, bytes) else str(authorization)


class _Nothing:
    """The body of an answer that never was."""

    def stream(self) -> Iterator[bytes]:
        return iter(())


def _tls(ca_bundle: str | None) -> ssl.SSLContext:
    where = Path(ca_bundle or str(get_cert_path(True)))
    return ssl.create_default_context(
        cafile=None if where.is_dir() else str(where), capath=str(where) if where.is_dir() else None
    )
