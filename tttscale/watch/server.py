"""The page's server: one run, read only, for browsers on this machine unless told otherwise."""

import ipaddress
import json
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tttscale.errors import ConfigError, TTTScaleError
from tttscale.reading import reason
from tttscale.watch.numbers import WatchedRun
from tttscale.watch.page import page_html

POLL_SECONDS = 2.0
"""How often the page asks."""
_SILENT_SECONDS = 10.0
"""A connection that says nothing for so long is closed."""
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class WatchServer(ThreadingHTTPServer):
    """Serves / (the page) and /data.json of one run.

    Args:
        run: the run.
        bind: an address of this machine.
        port: 0: a free one.

    Raises:
        ConfigError: the address or the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, run: WatchedRun, bind: str = "127.0.0.1", port: int = 0) -> None:
        self._run, self._lock = run, threading.Lock()
        self.is_local = is_loopback(bind)
        """Whether only programs on this machine reach it."""
        self.address_family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        try:
            super().__init__((bind, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--bind {bind} --port {port}: {reason(error) if isinstance(error, OSError) else error}. "
                "Name an address of this machine, and a free port or none."
            ) from None

    def server_bind(self) -> None:
        """Bind without asking a name server, as the library would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        host = self.server_address[0]
        shown = f"[{host}]" if ":" in str(host) else host
        return f"http://{shown}:{self.server_port}/"

    def page(self) -> tuple[str, str]:
        """Return the page and its kind."""
        return "text/html; charset=utf-8", page_html(self._snapshot(), POLL_SECONDS)

    def data(self) -> tuple[str, str]:
        """Return what the page asks for, and its kind."""
        return "application/json", json.dumps(self._snapshot(), allow_nan=False)

    def _snapshot(self) -> dict[str, Any]:
        """Read one block of what is new, and return all that is known."""
        with self._lock:
            self._run.update()
            return self._run.snapshot()

    def allows(self, host: str | None) -> bool:
        """Whether a request's Host is a name of ours; another site may have made its own name point here."""
        try:
            name = urlsplit(f"//{host or ''}").hostname or ""
        except ValueError:
            return False
        if name in _LOCAL_NAMES:
            return True
        return not self.is_local and (is_address(name) or name == socket.gethostname().lower())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone."""


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    timeout = _SILENT_SECONDS
    server_version, sys_version = "tttscale", ""

    def do_GET(self) -> None:
        """Answer with the page or its data."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer as GET does, without the body."""
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _answer(self, with_body: bool) -> None:
        status, kind, text = HTTPStatus.OK, "text/plain; charset=utf-8", ""
        try:
            path = urlsplit(self.path).path
        except ValueError:
            path = self.path
        if not self.server.allows(self.headers.get("Host")):
            status, text = HTTPStatus.FORBIDDEN, "Only this machine's own names are served.\n"
        elif path not in ("/", "/data.json"):
            status, text = HTTPStatus.NOT_FOUND, "Only / and /data.json are here.\n"
        else:
            try:
                kind, text = self.server.page() if path == "/" else self.server.data()
            except TTTScaleError:
                status, text = HTTPStatus.GONE, "The run's folder cannot be read any more.\n"
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def is_address(name: str) -> bool:
    """Whether it is an IP address in numbers."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(bind: str) -> bool:
    """Whether only this machine reaches an address."""
    return bind == "localhost" or (is_address(bind) and ipaddress.ip_address(bind).is_loopback)
