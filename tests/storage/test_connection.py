import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.address import AllowedHosts
from storage.connection import IDLE_S, KEPT_MAX, Connections
from storage.dial import resolve_name
from storage.errors import Cancelled, Refused, SourceUnavailable
from storage.exchange import _answered
from storage.fetch import Fetcher
from storage.intake import Intake
from storage.spool import Spool
from storage.watch import Patience, Watch
from tests.storage.faulty import FaultyServer, good, serving, silent

HASTY = Patience(connect_s=0.5, read_s=0.5)
TARGET = AllowedHosts.parse("files.example").check("https://files.example/a")


def watch(*, cancelled: bool = False) -> Watch:
    return Watch(HASTY, lambda: cancelled)


@contextlib.contextmanager
def connections(*addresses: str) -> Iterator[Connections]:
    made = Connections(resolve=lambda _host, _port: list(addresses))
    yield made
    made.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a00:1", "fe80::1%lo"])
@pytest.mark.parametrize("others", [(), ("8.8.8.8",)])
def test_a_public_name_with_any_address_that_is_not_public_is_refused(address: str, others: tuple[str, ...]) -> None:
    with connections(*others, address) as made, pytest.raises(Refused, match="not public"):
        made.open(TARGET, watch())


def test_a_name_without_an_address_may_pass() -> None:
    with connections() as made, pytest.raises(SourceUnavailable, match="no address"):
        made.open(TARGET, watch())
    with pytest.raises(socket.gaierror):
        resolve_name("no-such-host.invalid", 443)
    with pytest.raises(OSError, match="encoded"):
        resolve_name("a" * 70 + ".example", 443)

    def fails(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    with pytest.raises(SourceUnavailable, match="Temporary failure"):
        Connections(resolve=fails).open(TARGET, watch())


def test_every_address_of_a_name_is_tried_within_the_time() -> None:
    with serving(good(b"")) as server:
        hosts = AllowedHosts.parse(f"http://files.example:{server.port}")
        target = hosts.check(f"http://files.example:{server.port}/")
        with connections("127.0.0.9", "127.0.0.1") as made:
            made.open(target, watch()).close()
    with connections("127.0.0.9", "127.0.0.8") as made, pytest.raises(SourceUnavailable, match="refused"):
        made.open(target, watch())


def test_an_address_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        target = AllowedHosts.parse(f"http://127.0.0.1:{port}").check(f"http://127.0.0.1:{port}/")
        begun = time.monotonic()
        with connections() as made, pytest.raises(SourceUnavailable, match="timed out"):
            made.open(target, watch())
        assert time.monotonic() - begun < 2


def test_a_resolver_that_never_answers_is_given_up() -> None:
    never = threading.Event()

    def hangs(_host: str, _port: int) -> list[str]:
        never.wait(5)
        return []

    begun = time.monotonic()
    with pytest.raises(SourceUnavailable, match="resolved: timed out"):
        Connections(resolve=hangs).open(TARGET, watch())
    assert time.monotonic() - begun < 2
    never.set()


def test_a_kept_connection_that_cannot_be_written_to_is_replaced(spool: Spool) -> None:
    with serving(good(b"abc")) as server:
        fetcher = Fetcher(AllowedHosts.parse(server.origin), patience=HASTY)
        target = fetcher.hosts.check(server.url())
        broken = fetcher._connections.open(target, watch())
        broken.requests = 1
        broken._socket.shutdown(socket.SHUT_WR)
        fetcher._connections.give(broken)
        intake = Intake(spool=spool, name="one", bytes_max=10, cancelled=lambda: False)
        fetcher.fetch(server.url(), intake, lambda: False)
        assert bytes(intake.data()) == b"abc"
        assert broken._socket.fileno() == -1
        fetcher.close()


def test_a_fresh_connection_that_cannot_be_written_to_may_pass() -> None:
    with serving(good(b"abc")) as server, connections() as made:
        connection = made.open(AllowedHosts.parse(server.origin).check(server.url()), watch())
        connection._socket.shutdown(socket.SHUT_WR)
        with pytest.raises(SourceUnavailable, match="before its answer"):
            _answered(connection, b"GET", watch(), made)


def test_nothing_is_opened_for_a_cancelled_transfer() -> None:
    with connections("8.8.8.8") as made, pytest.raises(Cancelled):
        made.open(TARGET, watch(cancelled=True))


def test_connections_are_kept_up_to_a_number_and_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(silent(b"", 0)) as server, connections() as made:
        target = AllowedHosts.parse(server.origin).check(server.url())
        opened = [made.open(target, watch()) for _ in range(KEPT_MAX + 1)]
        for connection in opened:
            made.give(connection)
        assert opened[0]._socket.fileno() == -1
        taken = made.take(target)
        assert taken is opened[-1]
        late = time.monotonic() + IDLE_S
        monkeypatch.setattr(time, "monotonic", lambda: late)
        assert made.take(target) is None
        taken.unread += b"x"
        assert not taken.is_quiet()
        made.close()
        made.give(taken)
        assert taken._socket.fileno() == -1


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `localhost`, its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def server_side(certificates: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    return context


def fetch_tls(server: FaultyServer, spool: Spool, tls: ssl.SSLContext | None, host: str = "localhost") -> bytes:
    origin = f"https://{host}:{server.port}"
    fetcher = Fetcher(AllowedHosts.parse(origin), patience=HASTY, tls=tls)
    intake = Intake(spool=spool, name="one", bytes_max=10_000_000, cancelled=lambda: False)
    try:
        fetcher.fetch(origin + "/x", intake, lambda: False)
        return bytes(intake.data()) if intake.file is None else intake.file.path.read_bytes()
    finally:
        intake.discard()
        fetcher.close()


@pytest.mark.parametrize("body", [b"secret", bytes(5_000_000)])
def test_a_file_comes_over_tls_from_a_trusted_host(certificates: Path, spool: Spool, body: bytes) -> None:
    trusting = ssl.create_default_context(cafile=certificates / "cert.pem")
    with serving(good(body), tls=server_side(certificates)) as server:
        assert fetch_tls(server, spool, trusting) == body


def test_a_certificate_nobody_vouches_for_is_refused(certificates: Path, spool: Spool) -> None:
    with (
        serving(good(b"x"), tls=server_side(certificates)) as server,
        pytest.raises(SourceUnavailable, match="certificate refused"),
    ):
        fetch_tls(server, spool, None)


def test_a_certificate_for_another_name_is_refused(certificates: Path, spool: Spool) -> None:
    trusting = ssl.create_default_context(cafile=certificates / "cert.pem")
    with (
        serving(good(b"x"), tls=server_side(certificates)) as server,
        pytest.raises(SourceUnavailable, match="certificate refused"),
    ):
        fetch_tls(server, spool, trusting, host="127.0.0.1")


def test_silence_over_tls_is_given_up(certificates: Path, spool: Spool) -> None:
    trusting = ssl.create_default_context(cafile=certificates / "cert.pem")
    with (
        serving(silent(b"", 1), tls=server_side(certificates)) as server,
        pytest.raises(SourceUnavailable, match="nothing"),
    ):
        fetch_tls(server, spool, trusting)


def test_a_server_that_speaks_no_tls_may_pass(spool: Spool) -> None:
    with serving(good(b"x")) as server, pytest.raises(SourceUnavailable, match="No secure connection"):
        fetch_tls(server, spool, ssl.create_default_context())
