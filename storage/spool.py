"""Bytes on their way: files with a cap on all of them together, and what is known of those that are whole.

A file in use is locked (`flock`), so that processes may share a folder and a killed one leaves nothing locked. Beside
a file that was fetched whole stands `NAME.json`: until the bucket has it, a later call finds it there.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.errors import Refused, SpoolUnavailable
from storage.room import DISK_FREE_BYTES_MIN, RESERVE_WAIT_S, RETRY_AFTER_S, Room

SWEEP_S = 0.05
"""How long a sweep may look at a file that somebody wants to open."""
IDENTITY = ".id"
RECORD_BYTES_MAX = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", re.ASCII)


class _SyncFailed(OSError):
    """What the disk has of the file is not known, and a second sync would not tell."""


class Spool:
    """A folder for files on their way, at most `bytes_max` of them (counted per process, kept ones included)."""

    def __init__(
        self, folder: Path, bytes_max: int, *, disk_free_min: int = DISK_FREE_BYTES_MIN, wait_s: float = RESERVE_WAIT_S
    ) -> None:
        """Makes the folder and sweeps it. Raises OSError where that fails."""
        self.folder = folder
        self._identity = ""
        self.room = Room(folder, bytes_max, free_min=disk_free_min, wait_s=wait_s)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.sweep()

    @property
    def used_bytes(self) -> int:
        """Bytes reserved or kept."""
        return self.room.used_bytes

    def identity(self) -> str:
        """16 hex digits that tell this folder from every other, for good. Raises OSError."""
        if self._identity:
            return self._identity
        path = self.folder / IDENTITY
        draft = self.folder / f"{IDENTITY}-{secrets.token_hex(8)}"
        if not path.exists():
            with os.fdopen(_private(draft), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(8))
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        self._identity = path.read_text(encoding="ascii")
        return self._identity

    def sweep(self) -> int:
        """Remove what nobody uses and nobody can: files without a record, records without a file. Counts the kept.

        Returns how many files were removed; what can't be is left alone. Raises OSError where the folder can't be read.
        """
        removed = 0
        for path in sorted(self.folder.iterdir()):
            with contextlib.suppress(OSError):
                removed += self._swept(path)
        self.room.forget(lambda name: not self._data(name).exists())
        return removed

    def open(self, name: str) -> "SpoolFile":
        """A file of one's own, empty or as it was kept. Raises Refused, and SpoolUnavailable while another has it."""
        if not _NAME.fullmatch(name):
            raise Refused("A spool name is 1 to 200 of the characters A-Z a-z 0-9 . _ - and begins with no dot.")
        path = self._data(name)
        try:
            while True:
                file = self._opened(path)
                if not _locked(file, patience_s=SWEEP_S):
                    os.close(file)
                    raise SpoolUnavailable("Another worker has this output.", retry_after_s=RETRY_AFTER_S)
                if _still_there(file, path):
                    return SpoolFile(self, name, path, file)
                os.close(file)
        except OSError as error:
            raise SpoolUnavailable(f"The spool folder cannot be used: {error.strerror}.") from error

    def has_kept(self, name: str) -> bool:
        """Is there a whole file of this name, with what is known of it."""
        return self._record(name).exists()

    def kept(self) -> list[str]:
        """The names of all whole files that wait for their bucket."""
        return sorted(path.stem for path in self.folder.glob("*.json") if self._data(path.stem).exists())

    def kept_ms(self, name: str) -> int:
        """When a file was kept, in milliseconds since 1970; 0 where there is none."""
        try:
            return self._record(name).stat().st_mtime_ns // 1_000_000
        except OSError:
            return 0

    def remove(self, name: str) -> None:
        """Forget a kept file (its output was settled otherwise); one in use is left alone."""
        if self.has_kept(name):
            with contextlib.suppress(SpoolUnavailable):
                self.open(name).remove()

    def close(self) -> None:
        """Let nobody wait for room any more. What is kept stays."""
        self.room.close()

    def _opened(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:  # somebody tidied the folder away
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(path, flags, 0o600)

    def _swept(self, path: Path) -> int:
        name = path.name.removesuffix(".new").removesuffix(".json").removesuffix(".data")
        data, record = self._data(name), self._record(name)
        if path == data and record.exists():
            self.room.note(name, path.stat().st_size)
        elif path == data or path.suffix == ".new" or (path == record and not data.exists()):
            return _remove_unused(path, data, record)
        return 0

    def _data(self, name: str) -> Path:
        return self.folder / f"{name}.data"

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.json"


class SpoolFile:
    """One locked file of the spool. Used by one thread at a time; ends with `remove` or `close`."""

    def __init__(self, spool: Spool, name: str, path: Path, file: int) -> None:
        self._spool = spool
        self._file = file
        self.name = name
        self.path = path

    def reserve(self, size: int, cancelled: Callable[[], bool]) -> None:
        """Make sure of room for `size` bytes in all. Raises SpoolUnavailable, Cancelled."""
        self._spool.room.reserve(self.name, size, cancelled)

    def restart(self) -> None:
        """Empty the file; what was known of it is no longer true. Raises SpoolUnavailable."""
        try:
            self._record.unlink(missing_ok=True)
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
        except OSError as error:
            raise SpoolUnavailable(f"The spool's disk failed: {error.strerror}.") from error
        self._spool.room.emptied(self.name)

    def write(self, data: memoryview) -> None:
        """Append. Raises SpoolUnavailable where the disk does not take it."""
        size = len(data)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise SpoolUnavailable(f"The spool's disk did not take the file: {error.strerror}.") from error
        self._spool.room.wrote(self.name, size)

    def keep(self, known: dict[str, Any], *, durable: bool) -> None:
        """Write down what is known of the whole file; `durable` waits for the disk. Raises SpoolUnavailable.

        Without waiting it outlives a killed process, with it a power failure too. Of a file that could not be synced
        nobody knows what the disk has, and a second sync would not tell: it is removed.
        """
        try:
            if durable:
                _sync(self._file)
            with os.fdopen(_private(self._draft), "w", encoding="utf-8") as file:
                json.dump(known, file)
                file.flush()
                if durable:
                    _sync(file.fileno())
            self._draft.replace(self._record)
            if durable:
                _sync_folder(self._spool.folder)
        except OSError as error:
            if isinstance(error, _SyncFailed):
                self.remove()
            raise SpoolUnavailable(f"The spool's disk did not take the file: {error.strerror}.") from error
        self._spool.room.finished(self.name, self.size())

    def known(self) -> dict[str, Any] | None:
        """What was written down, or None where there is nothing readable."""
        try:
            with self._record.open("rb") as file:
                known = json.loads(file.read(RECORD_BYTES_MAX))
        except (OSError, ValueError):
            return None
        return known if isinstance(known, dict) else None

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._file).st_size

    def close(self) -> None:
        """Leave the file where it is, with its record; without one it is removed."""
        if self._file < 0:
            return
        if not self._record.exists():
            self.remove()
            return
        os.close(self._file)
        self._file = -1

    def remove(self) -> None:
        """Remove the file and its record and give back the room. Never raises."""
        if self._file < 0:
            return
        for path in (self._record, self._draft, self.path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1
        self._spool.room.release(self.name)

    @property
    def _record(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def _draft(self) -> Path:
        return self.path.with_suffix(".json.new")


def _private(path: Path) -> int:
    """A new file that only this user may read: sources may carry signatures."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _locked(file: int, *, patience_s: float = 0.0) -> bool:
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(SWEEP_S / 5)
        else:
            return True


def _still_there(file: int, path: Path) -> bool:
    """The file that was locked is the one under the name: it may have been removed before the lock was had."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(file)
    return (mine.st_ino, mine.st_dev) == (there.st_ino, there.st_dev)


def _remove_unused(path: Path, data: Path, record: Path) -> int:
    """Remove a leftover unless a living process has its data file locked, or kept it meanwhile; 1 if it was removed."""
    try:
        file = os.open(data, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        path.unlink(missing_ok=True)
        return 1
    try:
        if not _locked(file) or (path == data and record.exists()):
            return 0
        path.unlink(missing_ok=True)
        return 1
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(file)
    finally:
        os.close(file)


def _sync(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        raise _SyncFailed(error.errno, error.strerror) from error
