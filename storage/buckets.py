"""A bucket from its URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from storage.bucket import Bucket
from storage.errors import BucketMisconfigured

RIGHT = "use file:PATH or s3://bucket[/prefix]"


def open_bucket(url: str) -> Bucket:
    """The bucket behind `file:PATH` or `s3://bucket[/prefix]`.

    A folder is made and swept at once; S3 is not spoken to before it is used. Raises BucketMisconfigured.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "file":
        return _folder(rest)
    if scheme == "s3":
        from storage.s3 import S3Bucket  # noqa: PLC0415 - botocore costs half a second: only where it is used

        return S3Bucket.open(url)
    raise BucketMisconfigured(f"A bucket's URL must start with file: or s3://; {RIGHT}.")


def _folder(rest: str) -> Bucket:
    from storage.folder import FolderBucket  # noqa: PLC0415 - beside its sibling

    parts = urlsplit(rest) if rest.startswith("//") else None
    if parts and parts.netloc not in {"", "localhost"}:
        raise BucketMisconfigured("A file: URL must name a folder of this machine: file:relative/path or file:///path.")
    path = unquote(parts.path) if parts else rest
    if not path or "\0" in path:
        raise BucketMisconfigured("A file: URL must name a folder: file:relative/path or file:///path.")
    return FolderBucket(Path(path))
