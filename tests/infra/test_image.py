"""The image: what is pinned, what runs in it, and how it says that it is well."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# One instruction a line: continued lines joined, comments gone.
DOCKERFILE = re.sub(r"^\s*#.*\n", "", (ROOT / "infra/Dockerfile").read_text("utf-8"), flags=re.MULTILINE).replace(
    "\\\n", " "
)
INSTRUCTIONS = [tuple(line.split(maxsplit=1)) for line in DOCKERFILE.splitlines() if line.strip()]


def instructions(kind: str) -> list[str]:
    return [rest for found, rest in INSTRUCTIONS if found == kind]


class Server(ThreadingHTTPServer):
    status = 200


class Answering(BaseHTTPRequestHandler):
    """Answers `/healthz` with the status that its server was told, and nothing else."""

    def do_GET(self):
        assert isinstance(self.server, Server)
        self.send_response(self.server.status if self.path == "/healthz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answering) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def health(port: int) -> int:
    """The exit status of the image's own health check against a port of this machine."""
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.split("CMD", 1)[1])
    assert command.pop(0) == "python"
    return subprocess.run(
        [sys.executable, *command], env={"OUTKEEP_PORT": str(port)}, capture_output=True, check=False
    ).returncode


def test_the_health_check_is_content_with_200(server: Server):
    assert health(server.server_port) == 0


def test_the_health_check_fails_on_any_other_status(server: Server):
    server.status = 503
    assert health(server.server_port) == 1


def test_the_health_check_fails_when_nobody_listens(server: Server):
    port = server.server_port
    server.server_close()
    assert health(port) == 1


def test_what_comes_from_an_index_is_pinned_by_hash():
    installs = [
        command
        for run in instructions("RUN")
        for command in run.split("&&")
        if " install " in command and "pip" in command
    ]
    assert installs
    for command in installs:
        assert "--no-deps" in command
        assert "--require-hashes" in command or "--no-index" in command


def test_the_image_runs_the_service_as_nobody_in_particular_and_writes_its_folder_only():
    assert instructions("USER") == ["10001:10001"]
    assert instructions("ENTRYPOINT") == ['["outkeep"]']
    assert instructions("CMD") == ['["serve"]']
    assert instructions("WORKDIR")[-1] == instructions("VOLUME")[0] == "/var/lib/outkeep"
    assert "OUTKEEP_HOST=0.0.0.0" in " ".join(instructions("ENV"))


def test_byte_code_is_compiled_since_a_read_only_root_cannot_do_it_later():
    assert "PYTHONDONTWRITEBYTECODE" not in DOCKERFILE
    assert "--no-compile" not in DOCKERFILE
    assert "-m compileall" in DOCKERFILE


def test_both_stages_have_the_one_base_whose_tag_names_a_version():
    (base,) = [rest for rest in instructions("ARG") if rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:\d+\.\d+-slim-\w+", base)
    assert [rest.split()[0] for rest in instructions("FROM")] == ["${BASE}", "${BASE}"]


def test_the_builder_is_sent_all_that_is_copied_and_little_else():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {source for copy in instructions("COPY") if "--from" not in copy for source in copy.split()[:-1]}
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)
