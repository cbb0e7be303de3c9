"""A gate before a server: it lets everybody through, turns them away at the door, or takes them in and says nothing."""

import contextlib
import socket
import threading
from collections.abc import Iterator

OPEN, SHUT, MUTE = "open", "shut", "mute"


class Gate:
    """Listens on a port of its own; `state` holds for whoever comes next, and `turn` for all that are inside, too."""

    def __init__(self, port: int) -> None:
        self.state = OPEN
        self._behind = port
        self._inside: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ended = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._let_in)

    def turn(self, state: str) -> None:
        self.state = state
        self._throw_out()

    def end(self) -> None:
        self._ended = True
        while self._threads:
            self._throw_out()
            self._threads.pop(0).join(10)
        self._listener.close()

    def _throw_out(self) -> None:
        while self._inside:
            with contextlib.suppress(OSError):
                self._inside.pop().shutdown(socket.SHUT_RDWR)

    def _start(self, work, *arguments) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _let_in(self) -> None:
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                caller, _ = self._listener.accept()
                if self.state == SHUT:
                    caller.close()
                    continue
                self._inside.append(caller)
                self._start(self._serve, caller, self.state)

    def _serve(self, caller: socket.socket, state: str) -> None:
        with caller:
            if state == MUTE:
                with contextlib.suppress(OSError):
                    while caller.recv(65536):
                        pass
                return
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._behind)) as server:
                self._inside.append(server)
                back = threading.Thread(target=_pass_on, args=(server, caller), daemon=True)
                back.start()
                _pass_on(caller, server)
                back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def gate(port: int) -> Iterator[Gate]:
    """A gate before the server on this loopback port."""
    made = Gate(port)
    try:
        yield made
    finally:
        made.end()
