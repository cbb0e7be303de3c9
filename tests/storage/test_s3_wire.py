"""How requests travel to S3: TLS, proxies, addresses, connections."""

import hashlib
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import botocore.session
import pytest

from storage.errors import BucketMisconfigured, BucketUnavailable
from storage.s3 import S3Bucket
from storage.s3_account import connect
from storage.s3_upload import PART_BYTES
from tests.servers.faulty_s3 import FaultyS3, running_faulty_s3

TYPE = "image/png"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    names = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
    for name in (*names, *proxies, *(name.lower() for name in proxies)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, its own authority, with its key beside it."""
    openssl = shutil.which("openssl")
    assert openssl, "these tests need the openssl command"
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", "/CN=s3", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


@pytest.fixture
def tls_server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with running_faulty_s3(context) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server


async def put(bucket: S3Bucket, data: bytes = b"x", key: str = "k"):
    return await bucket.put(key, data, content_type=TYPE, sha256=hashlib.sha256(data).hexdigest())


async def test_large_and_small_objects_travel_through_tls(
    tls_server: FaultyS3, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    bucket, file, data = S3Bucket.open("s3://bucket"), tmp_path / "file", b"outkeep" * (PART_BYTES // 5)
    file.write_bytes(data)

    await put(bucket)
    await bucket.put_file("l", file, content_type=TYPE, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    assert tls_server.things["l"].data == data
    assert b"".join([chunk async for chunk in bucket.read("l", start=5)]) == data[5:]
    await bucket.close()


async def test_a_server_that_cannot_show_who_it_is_gets_nothing(tls_server: FaultyS3) -> None:
    bucket = S3Bucket.open("s3://bucket")

    with pytest.raises(BucketMisconfigured, match="AWS_CA_BUNDLE"):
        await put(bucket)
    with pytest.raises(BucketMisconfigured, match="AWS_CA_BUNDLE"):
        await bucket.sweep()

    assert tls_server.asked == []
    await bucket.close()


async def test_https_to_a_port_that_speaks_http_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_faulty_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint.replace("http:", "https:"))
        bucket = S3Bucket.open("s3://bucket")
        with pytest.raises(BucketUnavailable):
            await put(bucket)
        await bucket.close()


class Proxy(socketserver.ThreadingTCPServer):
    """An http proxy that takes CONNECT from whoever gives the right password."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.asked: list[bytes] = []
        self.answer = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Tunnel(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.request.recv(1)
        self.server.asked.append(head)
        self.request.sendall(self.server.answer)
        if b" 200 " not in self.server.answer:
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            back = threading.Thread(target=pump, args=(far, self.request))
            back.start()
            pump(self.request, far)
            back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def running_proxy() -> Iterator[Proxy]:
    with Proxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


async def test_the_proxy_that_boto3_would_use_is_used(
    tls_server: FaultyS3, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with running_proxy() as proxy:
        port = proxy.server_address[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{port}")
        bucket = S3Bucket.open("s3://bucket")
        await put(bucket)
        await bucket.close()

        proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
        bucket = S3Bucket.open("s3://bucket")
        with pytest.raises(BucketUnavailable):
            await put(bucket, key="other")
        await bucket.close()

    assert b"Proxy-Authorization: Basic bWU6cEBzcw==" in proxy.asked[0]
    assert list(tls_server.things) == ["k"]


async def test_connections_that_were_idle_for_long_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_faulty_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        bucket = S3Bucket.open("s3://bucket")
        await put(bucket)
        assert len(server.sockets) == 1
        monkeypatch.setattr("storage.s3_wire.IDLE_S", -1.0)
        await bucket.stat("k")
        assert len(server.sockets) == 2
        await bucket.close()


@pytest.mark.parametrize(
    ("endpoint", "bucket", "authority", "path"),
    [
        ("", "plain", "plain.s3.eu-north-1.amazonaws.com", "/"),
        ("", "dotted.name", "s3.eu-north-1.amazonaws.com", "/dotted.name/"),
        ("http://[::1]:9000", "plain", "[::1]:9000", "/plain/"),
        ("http://[::1]", "plain", "[::1]", "/plain/"),
        ("https://s3.example.com/below/here", "plain", "s3.example.com", "/below/here/plain/"),
    ],
)
def test_the_address_is_the_one_that_boto3_would_use(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, bucket: str, authority: str, path: str
) -> None:
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)

    account = connect(bucket)

    assert (account.origin.authority, account.path, account.region) == (authority, path, "eu-north-1")
    account.client.close()


def test_credentials_of_every_source_that_boto3_knows_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[here]\naws_access_key_id = FILE\naws_secret_access_key = s\n")
    (tmp_path / "config").write_text("[profile here]\nregion = sa-east-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "here")

    account = connect("plain")

    assert (account.keys().access, account.region) == ("FILE", "sa-east-1")
    assert botocore.session.get_session().profile == "here"
    account.client.close()
