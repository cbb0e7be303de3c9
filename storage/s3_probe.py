"""What an S3 bucket honours, tried out with a canary object."""

import hashlib
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from storage.bucket import Capabilities
from storage.errors import BucketUnavailable
from storage.s3_body import Data
from storage.s3_objects import Objects, Wanted

CANARY, OTHER = Data(b"canary"), Data(b"bird")
TYPE = "text/plain"


def probe(objects: Objects, prefix: str) -> Capabilities:
    """Write, read back and remove a canary under the prefix. Raises BucketUnavailable, BucketMisconfigured."""
    key = f"{prefix}.canary-{uuid4().hex}"
    canary, other = _wanted(key, CANARY), _wanted(key, OTHER)
    objects.replace(key, CANARY, content_type=TYPE, sha256=canary.sha256)
    try:
        if objects.read_back(key)[0] != canary.sha256:
            raise BucketUnavailable(f"The bucket {objects.bucket} did not give back what was written.")
        conditional = objects.honours(canary, CANARY)
        if conditional is None:
            raise BucketUnavailable(f"The bucket {objects.bucket} is busy: try again.")
        lying = Wanted(key, OTHER.size, canary.sha256, other.md5, TYPE)
        checksums = objects.send(lying, OTHER, condition=False).status == 400
    finally:
        objects.delete(key)
    objects.conditional = conditional
    return Capabilities(conditional_writes=conditional, checksums=checksums, versioning=_versioned(objects))


def _wanted(key: str, body: Data) -> Wanted:
    return Wanted(key, body.size, hashlib.sha256(body.data).hexdigest(), body.md5().hex(), TYPE)


def _versioned(objects: Objects) -> bool:
    try:
        return objects.account.client.get_bucket_versioning(Bucket=objects.bucket).get("Status") == "Enabled"
    except (ClientError, BotoCoreError):  # not everybody may ask, and not every server knows the question
        return False
