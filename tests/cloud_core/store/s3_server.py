"""As much of S3 as chunks need, over HTTP: objects in memory, ranges, listing in pages, deletion of many, by path."""

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET

XML = "http://s3.amazonaws.com/doc/2006-03-01/"
PAGE = 3
"""Small, so that a test's listing takes several."""


class S3(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: "Bucket"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self._key()] = (body, time.time())
        self._answer(200, b"", {"ETag": '"1"'})

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query["prefix"][0], query.get("continuation-token", [""])[0])
            return
        found = self.server.objects.get(self._key())
        if found is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        data, at = found
        headers = {
            "ETag": '"1"',
            "Last-Modified": datetime.fromtimestamp(at, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        }
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(200, data, headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last) + 1 if last else len(data), len(data))
        if begin >= end:
            self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
            return
        self._answer(206, data[begin:end], {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        gone = [key.text or "" for key in ET.fromstring(body).iter(f"{{{XML}}}Key")]
        for key in gone if not self.server.broken else ():
            self.server.objects.pop(key, None)
        told = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in gone)
        self._answer(200, f'<DeleteResult xmlns="{XML}">{told}</DeleteResult>'.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _list(self, prefix: str, after: str) -> None:
        keys = sorted(key for key in self.server.objects if key.startswith(prefix) and key > after)
        rows = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.server.objects[key][0])}</Size><ETag>1</ETag><LastModified>"
            f"{datetime.fromtimestamp(self.server.objects[key][1], UTC).isoformat()}</LastModified></Contents>"
            for key in keys[:PAGE]
        )
        more = f"<NextContinuationToken>{keys[PAGE - 1]}</NextContinuationToken>" if len(keys) > PAGE else ""
        self._answer(200, f"<ListBucketResult>{rows}{more}</ListBucketResult>".encode())

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket/")

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.server.broken:
            status, body, headers = 403, b"<Error><Code>AccessDenied</Code></Error>", None
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Bucket(ThreadingHTTPServer):
    """`bucket`, on a free port."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), S3)
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.broken = False

    @property
    def environment(self) -> dict[str, str]:
        """What points a client here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "here",
        }


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """A bucket that is there until the block ends."""
    server = Bucket()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
