"""The verb: put what is behind a URL into a bucket, provably whole, and say what was stored."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from storage import data_uri
from storage.archived import Archived
from storage.bucket import Bucket, Upload
from storage.errors import BucketMisconfigured, BucketUnavailable, Cancelled, SpoolUnavailable
from storage.fetch import Fetcher, Proof
from storage.intake import PIECE_BYTES, Intake
from storage.measure import measure
from storage.media import HEAD_BYTES, detect
from storage.spool import Spool, SpoolFile
from storage.watch import never

__all__ = ["Archived", "archive"]

EARLY_BYTES_MIN = 16 * 1024 * 1024
"""Files above this are sent to the bucket while they still come in."""

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _Order:
    source: str
    bucket: Bucket
    stem: str
    spool: Spool
    spool_name: str
    fetcher: Fetcher
    bytes_max: int
    store: bool
    crowded: Stop


@dataclass(frozen=True, slots=True)
class _Whole:
    """A file that is whole: its bytes in memory or in the spool; or in neither, since the bucket has it already."""

    archived: Archived
    data: bytes | None = None
    file: SpoolFile | None = None


async def archive(
    source: str,
    *,
    bucket: Bucket,
    stem: str,
    spool: Spool,
    spool_name: str,
    fetcher: Fetcher,
    bytes_max: int,
    store: bool = True,
    crowded: Stop = never,
    cancelled: Stop = never,
) -> Archived:
    """Store the file behind `source` (an http(s) URL or a `data:` URI) under `stem` + "." + its ending.

    `stem` is a full key without the ending. Bytes that are whole while the bucket does not take them stay in the spool
    under `spool_name`: the next call with this name takes them to the bucket and fetches nothing, also after a restart
    and whatever its `source` is, so a name stands for one output for good. Without `store` the bucket, known to be
    down, is not even asked: the file is brought to the spool, which ends in BucketUnavailable. While `crowded` says
    that others wait for this place (asked in a thread), a slow source is given up.
    Raises Gone, Refused, Unavailable, BucketMisconfigured, Conflict, Cancelled; nothing half-written is ever visible.
    """
    order = _Order(source, bucket, stem, spool, spool_name, fetcher, bytes_max, store, crowded)
    whole = await fetcher.run(lambda stop: _whole(order, stop), cancelled, abandoned=_leave)
    if whole.file is not None:
        await _store(order, whole, whole.file, cancelled)
    return whole.archived


def _whole(order: _Order, stop: Stop) -> _Whole:
    """What is small goes to the bucket in the same thread: changing threads costs as much as sending it."""
    try:
        whole = _take_kept(order, stop) if order.spool.has_kept(order.spool_name) else None
        whole = whole or _fetch(order, stop)
    except OSError as error:
        raise SpoolUnavailable(f"The spool's disk failed: {error.strerror}.") from error
    if not order.store:
        _set_aside(order, whole)
    if whole.data is not None:
        _put(order, whole.archived, whole.data, stop)
    return whole


def _set_aside(order: _Order, whole: _Whole) -> NoReturn:
    if whole.data is not None:
        _save(order, whole.archived, whole.data)
    elif whole.file is not None:
        _keep(whole.file, whole.archived)
    raise BucketUnavailable("The bucket is down: the file waits in the spool.")


def _take_kept(order: _Order, stop: Stop) -> _Whole | None:
    """What an earlier call left in the spool, if its bytes are still those that were verified."""
    file = order.spool.open(order.spool_name)
    try:
        archived = Archived.read(file.known() or {})
        if archived is not None and (file.size(), _sha256(file.path, stop)) == (archived.size, archived.sha256):
            return _Whole(archived.under(order.stem), file=file)
    except BaseException:
        file.close()
        raise
    file.remove()
    return None


def _fetch(order: _Order, stop: Stop) -> _Whole:
    def begin(first: bytes, path: Path, size: int, header: str) -> Upload | None:
        if size <= EARLY_BYTES_MIN or not order.store:
            return None
        media = detect(first, whole=False, header=header, url=order.source)
        return order.bucket.begin(f"{order.stem}.{media.ending}", path, content_type=media.content_type)

    intake = Intake(spool=order.spool, name=order.spool_name, bytes_max=order.bytes_max, cancelled=stop, begin=begin)
    try:
        if data_uri.is_data_uri(order.source):
            proof = _decode(order.source, intake)
        else:
            proof = order.fetcher.fetch(order.source, intake, stop, order.crowded)
        archived = _describe(order, intake, proof)
        if intake.file is None:
            return _Whole(archived, data=bytes(intake.data()))
        # From here a killed process loses nothing: the next one finds the file and what is known of it.
        with contextlib.suppress(SpoolUnavailable):
            intake.file.keep(archived.record(), durable=False)
    except BaseException:
        intake.discard()
        raise
    if intake.upload is None:
        return _Whole(archived, file=intake.file)
    _commit(intake.upload, intake.file, archived)
    return _Whole(archived)


def _decode(source: str, intake: Intake) -> Proof:
    intake.start(None, want_md5=False)
    for piece in data_uri.decode(source, intake.bytes_max):
        intake.feed(piece)
    intake.finish()
    return Proof({"content-type": data_uri.content_type(source)}, verified=True)


def _describe(order: _Order, intake: Intake, proof: Proof) -> Archived:
    in_uri = data_uri.is_data_uri(order.source)
    header = proof.headers.get("content-type", "")
    media = detect(intake.first_bytes(), whole=intake.size <= HEAD_BYTES, header=header, url=order.source)
    measures = measure(intake.data() if intake.file is None else intake.file.path, media.content_type)
    return Archived(
        key=f"{order.stem}.{media.ending}",
        size=intake.size,
        sha256=intake.sha256,
        media=media,
        width=measures.width,
        height=measures.height,
        duration_s=measures.duration_s,
        source=f"data:{header}" if in_uri else order.source,
        headers={} if in_uri else proof.headers,
        verified=proof.verified,
    )


def _commit(upload: Upload, file: SpoolFile, archived: Archived) -> None:
    """Make an upload visible whose file turned out whole."""
    try:
        upload.commit(size=archived.size, sha256=archived.sha256)
    except (BucketUnavailable, BucketMisconfigured):
        upload.abort()
        _keep(file, archived)
        raise
    except BaseException:
        upload.abort()
        file.remove()
        raise
    file.remove()


def _put(order: _Order, archived: Archived, data: bytes, stop: Stop) -> None:
    """Take what is in memory to the bucket; while the bucket fails, it stays in the spool."""
    _still_wanted(stop)
    try:
        order.bucket.put_now(archived.key, data, content_type=archived.media.content_type, sha256=archived.sha256)
    except (BucketUnavailable, BucketMisconfigured):
        _save(order, archived, data)
        raise


async def _store(order: _Order, whole: _Whole, file: SpoolFile, cancelled: Stop) -> None:
    """Take a whole file to the bucket; while the bucket fails or nobody waits, it stays in the spool."""
    archived = whole.archived
    try:
        _still_wanted(cancelled)
        await order.bucket.put_file(
            archived.key,
            file.path,
            content_type=archived.media.content_type,
            size=archived.size,
            sha256=archived.sha256,
        )
    except (BucketUnavailable, BucketMisconfigured):
        await asyncio.to_thread(_keep, file, archived)
        raise
    except (Cancelled, asyncio.CancelledError):
        _leave(whole)
        raise
    except BaseException:
        file.remove()
        raise
    await asyncio.to_thread(file.remove)


def _still_wanted(cancelled: Stop) -> None:
    if cancelled():
        raise Cancelled("The transfer was stopped.")


def _leave(whole: _Whole | None) -> None:
    """Nobody waits for this any more; what is whole in the spool stays there for the next call."""
    if whole is not None and whole.file is not None:
        whole.file.close()


def _save(order: _Order, archived: Archived, data: bytes) -> None:
    """Keep in the spool what was in memory; where that has no room it will have to be fetched again."""
    with contextlib.suppress(SpoolUnavailable):
        file = order.spool.open(order.spool_name)
        try:
            file.restart()
            file.reserve(len(data), lambda: False)
            file.write(memoryview(data))
        except BaseException:
            file.remove()
            raise
        _keep(file, archived)


def _keep(file: SpoolFile, archived: Archived) -> None:
    with contextlib.suppress(SpoolUnavailable):
        file.keep(archived.record(), durable=True)
    file.close()


def _sha256(path: Path, stop: Stop) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            _still_wanted(stop)
            digest.update(piece)
    return digest.hexdigest()
