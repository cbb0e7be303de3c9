"""A small S3 in memory that fails on demand: what real servers do not do when a test wants it."""

import hashlib
import re
import socket
import ssl
import threading
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LOSE, DROP, NONSENSE, CORRUPT, WRONG_ETAG = "lose", "drop", "nonsense", "corrupt", "etag"
CUT, SHORT_CHUNKS, STALL, HANG = "cut", "chunks", "stall", "hang"


@dataclass
class Thing:
    data: bytes
    etag: str
    content_type: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Say:
    """Answer with this instead of doing anything."""

    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    after: Callable[[], None] = lambda: None


class FaultyS3(ThreadingHTTPServer):
    """`faults[operation]` is what befalls the next requests of a kind, one each; None lets one through."""

    daemon_threads = False

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tls = tls
        self.things: dict[str, Thing] = {}
        self.uploads: dict[str, tuple[str, dict[int, Thing]]] = {}
        self.faults: dict[str, list[str | Say | None]] = {}
        self.asked: list[str] = []
        self.headers: list[tuple[str, dict[str, str]]] = []
        self.conditions = "honoured"  # or "ignored", "refused"
        self.opaque_etags = False  # as with keys of KMS
        self.checksums = True
        self.part_crc32 = "ignored"  # or "looked at", "not expected"
        self.keep_alive = True
        self.lock = threading.Lock()
        self.stalled, self.released = threading.Event(), threading.Event()
        self.sockets: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        sock, address = super().get_request()
        if self.tls:
            sock.settimeout(Handler.timeout)
            sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.sockets.append(sock)
        return sock, address

    def hang_up(self) -> None:
        """End what clients keep open; its threads end with it."""
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def fail(self, operation: str, *faults: str | Say | None) -> None:
        self.faults.setdefault(operation, []).extend(faults)

    def count(self, operation: str) -> int:
        return self.asked.count(operation)


class Handler(BaseHTTPRequestHandler):
    server: FaultyS3
    protocol_version = "HTTP/1.1"
    timeout = 20
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def do_any(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.key = unquote(parts.path).removeprefix("/bucket").removeprefix("/")
        self.body = self.rfile.read(int(self.headers.get("content-length") or 0))
        operation = self.operation()
        with self.server.lock:
            self.server.asked.append(operation)
            self.server.headers.append((operation, {name.lower(): value for name, value in self.headers.items()}))
            queue = self.server.faults.get(operation, [])
            self.fault = queue.pop(0) if queue else None
            if isinstance(self.fault, Say):
                self.fault.after()
                self.say(self.fault.status, self.fault.code, self.fault.headers)
            elif self.fault == HANG:
                self.stall()
                self.close_connection = True
            elif self.fault == DROP:
                self.close_connection = True
            elif self.fault == NONSENSE:
                self.wfile.write(b"220 smtp.example.com ESMTP\r\n\r\n")
                self.close_connection = True
            else:
                getattr(self, operation)()
        if not self.server.keep_alive:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815

    def operation(self) -> str:
        if self.command == "GET" and not self.key:
            return "versioning" if "versioning" in self.query else "list"
        kind = "part" if "uploadId" in self.query else "put"
        kind = "trial" if self.query.get("partNumber") == ["10000"] else kind
        post = "create" if "uploads" in self.query else "complete"
        gone = "abort" if "uploadId" in self.query else "delete"
        return {"GET": "get", "HEAD": "head", "PUT": kind, "POST": post, "DELETE": gone}[self.command]

    def say(self, status: int, code: str = "", headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        if code:
            body = (
                f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>secret-ish words</Message></Error>".encode()
            )
        if self.fault == LOSE:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.fault == SHORT_CHUNKS:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for at in range(0, len(body), 5):
                self.wfile.write(b"%x;x=y\r\n%s\r\n" % (len(body[at : at + 5]), body[at : at + 5]))
            self.wfile.write(b"0\r\ntrailer: x\r\n\r\n")
            return
        if "content-length" not in {name.lower() for name in headers or {}}:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.fault == STALL:
            self.wfile.write(body[: len(body) // 2])
            self.stall()
            self.close_connection = True
            return
        if self.fault == CUT:
            body = body[: len(body) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(body)

    def stall(self) -> None:
        """Go on only when the test says so."""
        self.server.stalled.set()
        self.server.released.wait(30)

    def received(self) -> Thing:
        data = b"?" + self.body[1:] if self.fault == CORRUPT else self.body
        sent = self.headers.get("x-amz-checksum-sha256", "") if self.server.checksums else ""
        etag = hashlib.md5(data).hexdigest()
        if self.server.opaque_etags:
            etag = hashlib.md5(b"salt" + data).hexdigest()
        return Thing(data, etag, self.headers.get("content-type", ""), sent if self.fault != CORRUPT else "")

    def told(self, thing: Thing) -> dict[str, str]:
        etag = "0" * 32 if self.fault == WRONG_ETAG else thing.etag
        told = {"ETag": f'"{etag}"'}
        if thing.sha256:
            told["x-amz-checksum-sha256"] = thing.sha256
        if self.server.opaque_etags:
            told["x-amz-server-side-encryption"] = "aws:kms"
        return told

    def damaged(self) -> bool:
        sums = (("content-md5", "md5"), ("x-amz-checksum-sha256", "sha256"))
        for name, kind in sums:
            sent = self.headers.get(name, "")
            if sent and b64decode(sent) != hashlib.new(kind, self.body).digest():
                return True
        return False

    def forbidden(self) -> bool:
        """Whether a condition stops this write; the answer is given then."""
        if self.headers.get("if-none-match") != "*" or self.server.conditions == "ignored":
            return False
        if self.server.conditions == "refused":
            self.say(501, "NotImplemented")
            return True
        if self.key in self.server.things:
            self.say(412, "PreconditionFailed")
            return True
        return False

    def put(self) -> None:
        if self.damaged():
            self.say(400, "BadDigest")
        elif not self.forbidden():
            thing = self.server.things[self.key] = self.received()
            self.say(200, headers=self.told(thing))

    def head(self) -> None:
        self.get()

    def get(self) -> None:
        thing = self.server.things.get(self.key)
        if thing is None:
            self.say(404, "NoSuchKey" if self.command == "GET" else "")
            return
        if self.headers.get("if-match", f'"{thing.etag}"') != f'"{thing.etag}"':
            self.say(412, "PreconditionFailed")
            return
        headers = self.told(thing) | {"content-type": thing.content_type}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if not span:
            self.say(200, headers=headers | self.length(thing.data), body=thing.data)
        elif int(span[1]) >= len(thing.data):
            self.say(416, "InvalidRange")
        else:
            data = thing.data[int(span[1]) : int(span[2]) + 1 if span[2] else None]
            self.say(206, headers=headers | self.length(data), body=data)

    def length(self, data: bytes) -> dict[str, str]:
        return {} if self.fault == SHORT_CHUNKS else {"content-length": str(len(data))}

    def delete(self) -> None:
        self.server.things.pop(self.key, None)
        self.say(204)

    def versioning(self) -> None:
        self.say(200, body=b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")

    def list(self) -> None:
        prefix = self.query.get("prefix", [""])[0]
        items = "".join(
            f"<Upload><Key>{key}</Key><UploadId>{name}</UploadId><Initiated>{name.split('@')[1]}</Initiated></Upload>"
            for name, (key, _) in self.server.uploads.items()
            if key.startswith(prefix)
        )
        body = f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{items}</ListMultipartUploadsResult>"
        self.say(200, body=body.encode())

    def create(self) -> None:
        name = f"upload{len(self.server.asked)}@2999-01-01T00:00:00.000Z"
        self.server.uploads[name] = (self.key, {})
        self.say(200, body=f"<R><Key>{self.key}</Key><UploadId>{name}</UploadId></R>".encode())

    def trial(self) -> None:
        self.part()

    def part(self) -> None:
        upload = self.server.uploads.get(self.query["uploadId"][0])
        crc32 = self.headers.get("x-amz-checksum-crc32", "") if self.server.part_crc32 != "ignored" else ""
        if crc32 and self.server.part_crc32 == "not expected":
            self.say(400, "InvalidRequest")
        elif self.damaged() or (crc32 and b64decode(crc32) != zlib.crc32(self.body).to_bytes(4, "big")):
            self.say(400, "BadDigest")
        elif not upload:
            self.say(404, "NoSuchUpload")
        else:
            thing = upload[1][int(self.query["partNumber"][0])] = self.received()
            told = {"x-amz-checksum-crc32": crc32 if self.fault != CORRUPT else "AAAAAA=="} if crc32 else {}
            self.say(200, headers=self.told(thing) | told)

    def abort(self) -> None:
        self.server.uploads.pop(self.query["uploadId"][0], None)
        self.say(204)

    def complete(self) -> None:
        name = self.query["uploadId"][0]
        if name not in self.server.uploads:
            self.say(404, "NoSuchUpload")
            return
        if self.forbidden():
            return
        sent = self.server.uploads.pop(name)[1]
        parts = [sent[int(number)] for number in re.findall(rb"<PartNumber>(\d+)<", self.body)]
        etag = f"{hashlib.md5(b''.join(bytes.fromhex(part.etag) for part in parts)).hexdigest()}-{len(parts)}"
        data = b"".join(part.data for part in parts)
        if self.fault == CORRUPT:
            data, etag = b"?" + data[1:], f"{'1' * 32}-{len(parts)}"
        thing = self.server.things[self.key] = Thing(data, etag)
        told = self.told(thing)["ETag"]
        if self.fault == "error in 200":
            self.say(200, body=b"<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>x</Message></Error>")
        else:
            self.say(
                200, body=f"<CompleteMultipartUploadResult><ETag>{told}</ETag></CompleteMultipartUploadResult>".encode()
            )


@contextmanager
def running_faulty_s3(tls: ssl.SSLContext | None = None) -> Iterator[FaultyS3]:
    """Start it on a free port; stopped at the end, its threads joined."""
    with FaultyS3(tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            server.hang_up()
            thread.join()
