"""The model as MLServer loads it: a runtime of ours over ONNX Runtime, for it has none of its own."""

from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from bench.peer_servers.arguments import opened, ran


class Encoder(MLModel):
    """Rows of ids in, logits out; MLServer's adaptive batching concatenates rows of several requests before it calls."""

    async def load(self) -> bool:
        extra: dict[str, Any] = getattr(self.settings.parameters, "extra", None) or {}
        self._session = opened(extra["program"], extra["threads"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        arrays = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        output = NumpyCodec.encode_output("logits", ran(self._session, arrays))
        return InferenceResponse(model_name=self.name, outputs=[output])
