"""Processes that die before the Nth thing they do to the world: a library in C, preloaded, counts and kills."""

import atexit
import functools
import mmap
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
ENTRIES_MAX, ENTRY_BYTES = 8192, 120
_HEAD = struct.Struct("=iiiiii")  # armed, at, writes, database, died, count


@functools.cache
def library() -> Path:
    """The compiled library, made once per process of the tests."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("A C compiler is missing: install gcc and libc6-dev (apt-get install gcc libc6-dev).")
    folder = Path(tempfile.mkdtemp(prefix="mortal-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = folder / "mortal.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return made


class Mortal:
    """What a test and the process share: when to count, when to die, and what was counted."""

    def __init__(self, folder: Path, name: str = "mortal", *, database: int = 0) -> None:
        """`database` is the port of a PostgreSQL of which nothing but the ends of transactions counts."""
        self._database = database
        self._path = folder / name
        size = _HEAD.size + ENTRIES_MAX * ENTRY_BYTES
        self._path.write_bytes(bytes(size))
        with self._path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), size)

    @property
    def environ(self) -> Mapping[str, str]:
        """With it a process is a mortal one. Without byte code to be written, starts are all alike."""
        return {"LD_PRELOAD": str(library()), "MORTAL_CONTROL": str(self._path), "PYTHONDONTWRITEBYTECODE": "1"}

    def arm(self, at: int = 0, *, writes: bool = False) -> None:
        """Count from now on; die right before effect number `at`, 0 for never. `writes` counts those into files, too."""
        self.forget()
        _HEAD.pack_into(self._shared, 0, 0, at, writes, self._database, 0, 0)
        self._shared[:4] = struct.pack("=i", 1)

    def forget(self) -> None:
        """Count nothing, and know of nothing that was counted."""
        self._shared[:] = bytes(len(self._shared))

    def disarm(self) -> None:
        self._shared[:4] = struct.pack("=i", 0)

    @property
    def died(self) -> bool:
        """Whether the process was killed since it was armed, or is about to be."""
        return bool(_HEAD.unpack_from(self._shared)[4])

    @property
    def count(self) -> int:
        return int(_HEAD.unpack_from(self._shared)[5])

    def effects(self) -> list[str]:
        """What was counted, in its order: the call and the file, or the two ports."""
        entries = self._shared[_HEAD.size : _HEAD.size + min(self.count, ENTRIES_MAX) * ENTRY_BYTES]
        places = range(0, len(entries), ENTRY_BYTES)
        return [entries[at : at + ENTRY_BYTES].split(b"\0", 1)[0].decode(errors="replace") for at in places]
