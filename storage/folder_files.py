"""The files of a folder bucket: drafted aside, hashed from what was written, published once, durable."""

import errno
import fcntl
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import uuid4

from storage.errors import BucketMisconfigured, BucketUnavailable, Conflict, Refused, StorageError
from storage.keys import check_key

DRAFTS = ".tmp"
PIECE_BYTES = 1024 * 1024  # copied and hashed at a time: bounds memory, and how long a cancelled copy goes on
KNOWN_FOLDERS_MAX = 10_000  # remembered as durable; forgetting costs a few fsyncs

_FULL_OR_BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_RANGE_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF}

P = ParamSpec("P")
T = TypeVar("T")


def plainly(action: Callable[P, T]) -> Callable[P, T]:
    """Let an action's OSError leave as BucketUnavailable, BucketMisconfigured or Refused."""

    @functools.wraps(action)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return action(*args, **kwargs)
        except OSError as error:
            raise explained(error) from error

    return told


def explained(error: OSError) -> StorageError:
    """What an error of the file system means for the caller."""
    reason = os.strerror(error.errno) if error.errno else "unknown error"
    if error.errno in _FULL_OR_BROKEN:
        return BucketUnavailable(f"The bucket's folder cannot take or give files now ({reason}).")
    if error.errno == errno.ENAMETOOLONG:
        return Refused(f"The bucket's folder cannot hold a file under this key ({reason}).")
    if error.errno in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}:
        return BucketMisconfigured(
            f"Something else stands where the bucket's folder needs a folder or file ({reason})."
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return BucketMisconfigured(f"The bucket's folder must be writable by this user ({reason}).")
    return BucketUnavailable(f"The bucket's folder did not work this time ({reason}).")


class Draft:
    """A file on its way, under a temporary name: what is hashed is what was read back from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with suppress(OSError):  # a file system without locks: nothing is swept there
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: bytes) -> None:
        """Append bytes."""
        view = memoryview(data)
        while view:
            written = os.write(self._file, view[:PIECE_BYTES])
            self._read_back(written)
            view = view[written:]

    def copy(self, source: int, *, end: int) -> None:
        """Append one piece of an open file, of which the first `self.size` bytes are here already."""
        count = min(PIECE_BYTES, end - self.size)
        try:
            copied = os.copy_file_range(source, self._file, count, self.size, self.size)
        except OSError as error:
            if error.errno not in _NO_RANGE_COPY:
                raise
            copied = os.pwrite(self._file, os.pread(source, count, self.size), self.size)
        if not copied:
            raise BucketUnavailable("The file to store is shorter than it was said to be.")
        self._read_back(copied)

    def sha256(self) -> str:
        """64 hex digits over everything read back so far."""
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Put the bytes on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file, and of its temporary name where it still has it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.path.unlink(missing_ok=True)

    def _read_back(self, count: int) -> None:
        if len(self._buffer) < count:
            self._buffer = bytearray(count)
        view = memoryview(self._buffer)[:count]
        if os.preadv(self._file, [view], self.size) != count:
            raise BucketUnavailable("The bucket's folder did not give back what was written.")
        self._hash.update(view)
        self.size += count


class Tree:
    """Everything under the folder: where files stand, and how they come to stand there durably."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._drafts = root / DRAFTS
        self._durable: set[Path] = set()
        self._naming = threading.Lock()

    def check(self) -> None:
        """Raise BucketMisconfigured where a file that is not there says nothing: the folder itself is out of order."""
        if not self.root.exists():  # it is made again with the next object
            return
        if not self.root.is_dir():
            raise BucketMisconfigured("The bucket's folder is a file; name a folder.")
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise BucketMisconfigured("The bucket's folder must be writable by this user.")

    @plainly
    def sweep(self) -> int:
        """Make the folder if need be and remove the drafts that no running process holds. Returns how many."""
        self.check()
        self._ensure(self._drafts)
        return sum(_removed_if_abandoned(path) for path in list(self._drafts.iterdir()))

    @plainly
    def draft(self) -> Draft:
        """A new temporary file."""
        path = self._drafts / uuid4().hex
        try:
            draft = Draft(path)
        except FileNotFoundError:  # somebody tidied the folder away
            self._durable.clear()
            self._ensure(self._drafts)
            draft = Draft(path)
        if path.exists():
            return draft
        draft.close()  # a sweep came between its making and its locking
        return self.draft()

    def path(self, key: str) -> Path:
        """Where a key's file stands. Raises Refused."""
        if check_key(key).split("/", 1)[0] == DRAFTS:
            raise Refused(f"Keys under {DRAFTS}/ are kept for files on their way.")
        return self.root / key

    @plainly
    def publish(self, draft: Draft, key: str, *, replace: bool) -> None:
        """Give a whole, synced draft its final name, durably; equal bytes there are a success, others Conflict."""
        final = self.path(key)
        self._ensure(final.parent)
        if replace:
            draft.path.replace(final)
        elif not self._named(draft.path, final):
            self._compare(final, draft)
        _sync_folder(final.parent)

    @plainly
    def remove(self, key: str) -> None:
        """Remove a key's file durably; nothing there is a success."""
        path = self.path(key)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        _sync_folder(path.parent)

    def _named(self, draft: Path, final: Path) -> bool:
        try:
            os.link(draft, final, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return self._renamed(draft, final)
        return True

    def _renamed(self, draft: Path, final: Path) -> bool:
        # Without hard links (FAT, some network and FUSE file systems) create-only holds within this process alone.
        with self._naming:
            if final.exists():
                return False
            draft.rename(final)
        return True

    def _compare(self, final: Path, draft: Draft) -> None:
        with final.open("rb") as file:
            same_size = os.fstat(file.fileno()).st_size == draft.size
            if not same_size or hashlib.file_digest(file, "sha256").hexdigest() != draft.sha256():
                raise Conflict("Other bytes already stand under this key.")
        # Whoever wrote it may have died before its sync, or have heard that failed, and a second sync would not tell:
        # the same bytes in a file that is known to be on the disk.
        draft.path.replace(final)

    def _ensure(self, folder: Path) -> None:
        """Make a folder and its parents, each one's name durable before anything is put into it."""
        if folder in self._durable and folder.is_dir():
            return
        missing, inside = not folder.is_dir(), folder != self.root and folder.is_relative_to(self.root)
        if missing or inside:
            self._ensure(folder.parent)
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)
        if len(self._durable) >= KNOWN_FOLDERS_MAX:
            self._durable.clear()
        self._durable.add(folder)


def _removed_if_abandoned(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:  # held by the process that writes it
        return False
    finally:
        os.close(file)
    return True


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
