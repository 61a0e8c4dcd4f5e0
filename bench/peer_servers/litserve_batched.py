"""LitServe: batches gathered by its own loop, JSON `{"input_ids": [...], ...}` on `/predict`."""

from typing import Any

import litserve
import numpy as np

from bench.peer_servers.arguments import INPUTS, Arguments, arguments, opened, ran


class Encoder(litserve.LitAPI):
    """One row a request, `rows` a batch."""

    def __init__(self, given: Arguments) -> None:
        super().__init__(max_batch_size=given.rows, batch_timeout=given.wait)
        self._given = given
        self._session: Any = None

    def setup(self, device: str) -> None:  # noqa: ARG002 - of the port
        self._session = opened(self._given.program, self._given.threads)

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        return {name: np.asarray(request[name], np.int64) for name in INPUTS}

    def batch(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: np.stack([each[name] for each in inputs]) for name in INPUTS}

    def predict(self, x: dict[str, Any]) -> Any:
        return ran(self._session, x)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"logits": output.tolist()}


if __name__ == "__main__":
    told = arguments()
    server = litserve.LitServer(Encoder(told), accelerator="cpu", workers_per_device=told.workers, timeout=120)
    server.run(host="127.0.0.1", port=told.port, generate_client_file=False, log_level="warning")
