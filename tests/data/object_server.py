"""A small object server on loopback: what S3 and plain HTTP answer to GET, HEAD and list."""

import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

WHEN = "2026-01-01T00:00:00.000Z"


class Request(NamedTuple):
    verb: str
    path: str
    range: str | None


class Server(NamedTuple):
    url: str
    requests: list[Request]


@contextmanager
def serving(root: Path, may_list: bool = True, secret: str | None = None) -> Iterator[Server]:
    """Serves the files below `root` as http://.../NAME and as objects of bucket `bucket`.

    With `secret` only to those who give it as the password of user `me`, or as the query's `sig`.
    """
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # header and body in one packet

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            url = urlsplit(self.path)
            requests.append(Request(self.command, url.path, self.headers.get("Range")))
            query = parse_qs(url.query)
            basic = b64encode(f"me:{secret}".encode()).decode()
            known = self.headers.get("Authorization") == f"Basic {basic}"
            if secret is not None and not known and query.get("sig") != [secret]:
                return self.answer(403, f"<Error>{self.path}</Error>".encode())
            if "list-type" in query and not may_list:
                return self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            if "list-type" in query:
                return self.answer(200, listing(root, query["prefix"][0]))
            path = root / url.path.removeprefix("/bucket").lstrip("/")
            if not path.is_file():
                return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            data = path.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
            if not wanted:
                return self.answer(200, data)
            first, last = wanted.groups()
            begin = int(first) if first else max(0, len(data) - int(last))
            end = int(last) + 1 if first and last else len(data)
            part = data[begin:end]
            return self.answer(206, part, f"bytes {begin}-{begin + len(part) - 1}/{len(data)}")

        def answer(self, code: int, data: bytes, content_range: str | None = None) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", requests)
    finally:
        server.shutdown()
        server.server_close()


def listing(root: Path, prefix: str) -> bytes:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    keys = ((path.relative_to(root).as_posix(), path.stat().st_size) for path in files)
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>1</ETag>"
        f"<LastModified>{WHEN}</LastModified></Contents>"
        for key, size in keys
        if key.startswith(prefix)
    )
    text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    return text.encode()
