"""Serve a shipped model straight from disk with `edge-agent serve`: no cloud, no broker, no enrolment.

python examples/01_serve_without_a_cloud.py
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from cloud_core.models.publish import build_bundle
from cloud_core.models.shipped import shipped_models
from shared.bundle.install import install
from shared.bundle.store import ChunkStore

URL = "http://127.0.0.1:18090"


def ask(path: str, body: object | None = None) -> dict[str, object]:
    """One JSON call."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def main() -> None:
    """Build a bundle, serve it, ask it, stop it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source = next(path for path in shipped_models() if path.name == "sentiment-zh")
        store = ChunkStore(home / "chunks")
        _, manifest = build_bundle(source, store)
        bundle = install(manifest, "cpu-int8", store, home / "bundles")
        command = [sys.executable, "-m", "edge_agent", "serve", str(bundle), "--port", "18090"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as agent:
            for _ in range(200):
                try:
                    ask("/v2/health/ready")
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.1)
            for text in ("味道很好，下次还来", "等了一个小时，菜还是凉的"):
                result = ask("/predict", {"task_type": "sentiment", "input_text": text})["result"]
                print(text, result)
            agent.terminate()


if __name__ == "__main__":
    main()
