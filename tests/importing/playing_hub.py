"""A hub on loopback that serves one repository as modelscope.cn does: the list of its files, and each file."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


@contextmanager
def playing_hub(name: str, folder: Path, *, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths it was asked for so far; every answer has `status` where that is an error."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            asked.append(self.path)
            query = parse_qs(url.query)
            base = f"/api/v1/models/{name}/repo"
            if status != 200 or not url.path.startswith(base) or query["Revision"] not in (["master"], ["v1.0.0"]):
                failed = {"Code": 10010205001, "Message": "not found", "Success": False, "RequestId": "1"}
                self._say(status if status != 200 else 404, json.dumps(failed).encode())
            elif url.path == f"{base}/files":
                listed = {
                    "Code": 200,
                    "Success": True,
                    "Data": {"Files": files(folder), "TotalCount": len(files(folder))},
                }
                self._say(200, json.dumps(listed).encode())
            else:
                self._say(200, (folder / query["FilePath"][0]).read_bytes())

        def _say(self, code: int, data: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def files(folder: Path) -> list[dict[str, object]]:
    return [
        {
            "Name": path.name,
            "Path": str(path.relative_to(folder)),
            "Type": "blob",
            "Size": path.stat().st_size,
            "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "Revision": "1",
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
