"""MLServer with adaptive batching, Open Inference Protocol JSON. 0 workers: the model runs in the server's own process."""

import json
import sys
import tempfile
from pathlib import Path

from mlserver.cli import main

from bench.peer_servers.arguments import arguments

if __name__ == "__main__":
    told = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": told.port,
            "grpc_port": told.port + 1,
            "metrics_port": told.port + 2,
            "metrics_endpoint": None,
            "metrics_dir": str(folder / "metrics"),
            "environments_dir": str(folder / "environments"),
            "parallel_workers": told.workers,
            "gzip_enabled": False,
        }
        model = {
            "name": "encoder",
            "implementation": "bench.peer_servers.mlserver_runtime.Encoder",
            "max_batch_size": told.rows,
            "max_batch_time": told.wait,
            "parameters": {"extra": {"program": told.program, "threads": told.threads}},
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))
        sys.argv = ["mlserver", "start", str(folder)]
        main()
