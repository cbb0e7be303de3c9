"""Looking whether everything is set up right: settings, ledger, bucket, spool, Replicate, public URL."""

import random
import tempfile
import time
from collections.abc import AsyncIterator, Mapping

from receiver.core.errors import LedgerUnavailable, Misconfigured
from receiver.replicate.client import Replicate
from receiver.replicate.errors import NotFound, ReplicateError, Unauthenticated
from receiver.replicate.signature import Secret
from receiver.runtime import doors, wiring
from receiver.runtime.findings import Finding, Level, failed
from receiver.runtime.keys import Keys
from receiver.runtime.settings import Settings, read, strangers
from storage.errors import StorageError


async def check(environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Look at one thing after the other. Raises nothing; without readable settings the rest is not looked at."""
    for sentence in strangers(environ):
        yield Finding(Level.WARNING, "settings", sentence)
    try:
        settings = read(environ)
        keys = Keys.load(settings)
    except Misconfigured as error:
        yield Finding(Level.FAILURE, "settings", str(error))
        return
    guarded = "an API key is asked for" if keys.required else "no API key is set, so only this machine is served"
    yield Finding(Level.OK, "settings", f"All are readable; {guarded}.")
    if settings.sinks:
        yield Finding(Level.FAILURE, "sinks", "OUTKEEP_SINKS can't be used yet: leave it out and read the feed.")
    serving = await doors.serves(settings)
    yield await _ledger(settings, serving=serving)
    yield await _bucket(settings)
    yield _spool(settings)
    async for finding in _replicate(settings):
        yield finding
    yield await doors.public_url(settings, serving=serving)


async def _ledger(settings: Settings, *, serving: bool) -> Finding:
    if serving and settings.database_url.startswith("sqlite:"):  # it is the service's alone: ask the service
        ready = await doors.says_ready(settings)
        says = "In use by the running service, which says that it takes deliveries."
        return Finding(Level.OK, "ledger", says) if ready else failed("ledger", "The running service can't use it.")
    try:
        ledger = await wiring.open_ledger(settings)
    except (Misconfigured, LedgerUnavailable) as error:
        return failed("ledger", str(error))
    try:
        await ledger.ready()
    except LedgerUnavailable as error:
        return failed("ledger", str(error))
    finally:
        await ledger.close()
    return Finding(Level.OK, "ledger", f"It opens, its schema is up to date, and it can be written ({ledger.dialect}).")


async def _bucket(settings: Settings) -> Finding:
    try:
        bucket = wiring.bucket_of(settings)
    except Misconfigured as error:
        return failed("bucket", str(error))
    try:
        found = await bucket.probe()
    except StorageError as error:
        return failed("bucket", _with_mend(error))
    finally:
        await bucket.close()
    honours = {
        "conditional writes": found.conditional_writes,
        "checksums": found.checksums,
        "versioning": found.versioning,
    }
    listed = ", ".join(f"{name} {'yes' if honoured else 'no'}" for name, honoured in honours.items())
    if not found.conditional_writes:
        mend = "without conditional writes run one worker only, or use a bucket that honours If-None-Match"
        return Finding(Level.WARNING, "bucket", f"It takes and gives objects ({listed}); {mend}.")
    return Finding(Level.OK, "bucket", f"{bucket.name} takes and gives objects ({listed}).")


def _spool(settings: Settings) -> Finding:
    try:
        settings.spool_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.spool_dir) as file:
            file.write(b"canary")
    except OSError as error:
        says = f"{settings.spool_dir} can't be written: {error.strerror}. Look at OUTKEEP_SPOOL_DIR."
        return failed("spool", says)
    return Finding(Level.OK, "spool", f"{settings.spool_dir} can be written.")


async def _replicate(settings: Settings) -> AsyncIterator[Finding]:
    if settings.replicate_token is None:
        mend = "Set REPLICATE_API_TOKEN (replicate.com/account/api-tokens)"
        if settings.webhook_secrets:
            says = f"{mend}: without it we receive webhooks, but can neither create nor ask for what was missed."
            yield Finding(Level.WARNING, "replicate", says)
        else:
            yield failed("replicate", f"{mend}, or at least OUTKEEP_WEBHOOK_SECRETS.")
        return
    async with Replicate(
        base_url=settings.replicate_url,
        token=settings.replicate_token,
        clock=time.monotonic,
        rng=random.SystemRandom(),
    ) as replicate:
        account = await _account(replicate)
        yield account
        if account.level == Level.OK:
            yield await _secret(replicate, settings)


async def _account(replicate: Replicate) -> Finding:
    try:
        told = await replicate.account()
    except Unauthenticated:
        mend = "make a new one at replicate.com/account/api-tokens and set REPLICATE_API_TOKEN"
        return failed("replicate", f"It refuses the token: {mend}.")
    except NotFound:
        return failed("replicate", "Its API is not there: look at OUTKEEP_REPLICATE_URL (it ends in /v1).")
    except ReplicateError as error:
        return failed("replicate", f"{error} Look at OUTKEEP_REPLICATE_URL and the network.")
    return Finding(Level.OK, "replicate", f"The token is that of {told.get('username') or 'an account without name'}.")


async def _secret(replicate: Replicate, settings: Settings) -> Finding:
    configured = [Secret.parse(text) for text in settings.webhook_secrets]
    try:
        current = await replicate.webhook_secret()
    except ReplicateError as error:
        if configured:
            return Finding(Level.WARNING, "secret", f"OUTKEEP_WEBHOOK_SECRETS could not be compared: {error}")
        return failed("secret", f"The signing secret can't be fetched: {error} Set OUTKEEP_WEBHOOK_SECRETS.")
    if configured and current not in configured:
        mend = "add it, or unset the setting to have it fetched"
        return failed("secret", f"The account's signing secret is not in OUTKEEP_WEBHOOK_SECRETS: {mend}.")
    return Finding(Level.OK, "secret", "The signing secret is known.")


def _with_mend(error: StorageError) -> str:
    """The bucket's sentence in the words of our settings and, unless it names a mend itself, with where to look."""
    told = f"{str(error).rstrip('.')}.".replace("the bucket's URL", "OUTKEEP_BUCKET_URL")
    return told if "AWS_" in told else f"{told} Look at OUTKEEP_BUCKET_URL and, for S3, AWS_ENDPOINT_URL_S3."
