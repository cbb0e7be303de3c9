"""What S3 answers, sorted by what the caller must do about it."""

import re
from collections.abc import Mapping

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from storage.errors import BucketMisconfigured, BucketUnavailable, ObjectMissing, StorageError

RETRY_AFTER_S_MAX = 3600.0

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
MENDS = {
    "NoSuchBucket": "it does not exist at this endpoint; create it or mend the bucket's URL or AWS_ENDPOINT_URL_S3",
    "InvalidBucketName": "its name is not valid; mend the bucket's URL",
    "AccessDenied": "these credentials may not do this; allow them s3:PutObject, s3:GetObject, s3:DeleteObject, "
    "s3:ListBucket and s3:AbortMultipartUpload",
    "AllAccessDisabled": "all access to it is disabled",
    "AccountProblem": "there is a problem with the account",
    "InvalidAccessKeyId": "its server does not know this access key; mend AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; mend AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the session token has expired; renew the credentials",
    "InvalidToken": "the session token is not valid; mend AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "PermanentRedirect": "it lies in another region; set AWS_DEFAULT_REGION",
    "AuthorizationHeaderMalformed": "it lies in another region; set AWS_DEFAULT_REGION",
    "IllegalLocationConstraintException": "it lies in another region; set AWS_DEFAULT_REGION",
    "NotImplemented": "its server does not know how to do this",
}
PASSING = {
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "ConditionalRequestConflict",
    "BadDigest",
    "InvalidDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "NoSuchUpload",
    "InvalidPart",
    "PreconditionFailed",  # of a read that goes on: the object is another one by now
}
BY_STATUS = {301: "PermanentRedirect", 307: "PermanentRedirect", 401: "AccessDenied", 403: "AccessDenied"}

_CODE = re.compile(r"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>")
_REGION = re.compile(r"^[a-z0-9-]{1,32}$")


def code_of(text: str) -> str:
    """The code in the XML body of an error, or ""."""
    found = _CODE.search(text)
    return found[1] if found else ""


def from_answer(bucket: str, status: int, code: str, headers: Mapping[str, str]) -> StorageError:
    """What an answer other than success means. `headers` have lower-case names."""
    if code == "NoSuchKey" or (status == 404 and not code):
        return ObjectMissing("No object stands under this key.")
    if code in PASSING or (status >= 500 and status != 501) or status in {408, 429}:
        told = f"{status} {code}".strip()
        return BucketUnavailable(
            f"The bucket {bucket} did not do it this time ({told}).", retry_after_s=_retry_after_s(headers)
        )
    mend = MENDS.get(code or BY_STATUS.get(status, ""), "")
    region = headers.get("x-amz-bucket-region", "")
    if "region" in mend and _REGION.match(region):
        mend = f"{mend}={region}"
    told = f"{status} {code}".strip()
    return BucketMisconfigured(f"The bucket {bucket} refuses: {mend or 'it does not take this request'} ({told}).")


def status_and_code(error: Exception) -> tuple[int, str]:
    """The HTTP status and S3's word for an error that botocore raised; 0 and "" where there was no answer."""
    if not isinstance(error, ClientError):
        return 0, ""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0), "" if code.isdigit() else code


def from_botocore(error: Exception, bucket: str) -> StorageError:
    """What an exception of botocore means."""
    if isinstance(error, ClientError):
        about = error.response.get("ResponseMetadata", {})
        headers = {str(name).lower(): str(value) for name, value in about.get("HTTPHeaders", {}).items()}
        return from_answer(bucket, *status_and_code(error), headers)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return BucketMisconfigured(
            f"The bucket {bucket} needs credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role."
        )
    if isinstance(error, NoRegionError):
        return BucketMisconfigured(f"The bucket {bucket} needs a region; set AWS_DEFAULT_REGION.")
    if isinstance(error, ProfileNotFound):
        return BucketMisconfigured(f"The bucket {bucket} can't be used: the profile in AWS_PROFILE does not exist.")
    if isinstance(error, SSLError):
        return BucketMisconfigured(
            f"The certificate of the bucket {bucket} was refused; AWS_CA_BUNDLE names a CA file."
        )
    if isinstance(error, CredentialRetrievalError | MetadataRetrievalError):
        return BucketUnavailable(f"The credentials for the bucket {bucket} could not be had this time.")
    if isinstance(error, BotoConnectionError | HTTPClientError | ProxyConnectionError):
        return BucketUnavailable(f"The bucket {bucket} can't be reached ({type(error).__name__}).")
    if isinstance(error, OSError):
        return BucketMisconfigured(f"The bucket {bucket} can't be used: AWS_CA_BUNDLE names no file of certificates.")
    kind = type(error).__name__ if isinstance(error, BotoCoreError) else "a setting makes no sense"
    return BucketMisconfigured(f"The bucket {bucket} can't be used with these AWS settings ({kind}).")


def certificate_refused(bucket: str) -> BucketMisconfigured:
    """Whoever answers is not known to be the bucket's server."""
    return BucketMisconfigured(f"The certificate of the bucket {bucket} was refused; AWS_CA_BUNDLE may name its CA.")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    return min(float(value), RETRY_AFTER_S_MAX) if value.isdigit() else None
