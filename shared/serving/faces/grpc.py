"""The gRPC face: Open Inference Protocol v2 as `inference.GRPCInferenceService`. Parse, ask the one port, respond.

Names and messages are KServe's with Triton's additions, so that an unmodified `tritonclient` works. Methods that would change
the server (shared memory, tracing, logs) are not there; loading and unloading say why they refuse.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import grpc
import msgspec
from google.protobuf import json_format

from shared.protocol.errors import Refused
from shared.protocol.reported import ModelState
from shared.serving.catalog import Listed, pick
from shared.serving.faces.context import GrpcPorts
from shared.serving.faces.grpc_call import Call, parsed, unary
from shared.serving.faces.grpc_flights import Flights
from shared.serving.faces.grpc_infer import asked, message_of
from shared.serving.faces.grpc_messages import INFERENCE
from shared.serving.faces.grpc_stream import StreamInfer
from shared.serving.faces.grpc_wire import Message
from shared.serving.oip.models import (
    configuration,
    every_statistics,
    metadata,
    read_only,
    repository_index,
    server_metadata,
)

SERVICE = "inference.GRPCInferenceService"


def service(ports: GrpcPorts, flights: Flights) -> Any:
    """The service, for a server that counts its calls in `flights`."""
    face = GrpcFace(ports)
    answers = {
        "ServerLive": face.live,
        "ServerReady": face.ready,
        "ServerMetadata": face.server,
        "ModelReady": face.model_ready,
        "ModelMetadata": face.model,
        "ModelConfig": face.config,
        "ModelStatistics": face.stats,
        "RepositoryIndex": face.index,
        "RepositoryModelLoad": face.control,
        "RepositoryModelUnload": face.control,
    }
    methods = {
        name: unary(partial(parsed, INFERENCE[f"{name}Request"]), answer, ports.log, flights, ports.message_s)
        for name, answer in answers.items()
    }
    methods["ModelInfer"] = unary(bytes, face.infer, ports.log, flights, ports.message_s)
    methods["ModelStreamInfer"] = StreamInfer(ports, flights).method()
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class GrpcFace:
    """The methods that answer once."""

    def __init__(self, ports: GrpcPorts) -> None:
        self._ports = ports

    async def infer(self, data: bytes, call: Call) -> Message:
        """One inference."""
        wanted = await asked(data, call, self._ports)
        response = await self._ports.answer.answer(wanted.request)
        call.answered(response)
        return message_of(response, wanted)

    async def live(self, _: Message, call: Call) -> Message:
        """It answers, so it lives."""
        call.answered()
        return _message("ServerLiveResponse", {"live": True})

    async def ready(self, _: Message, call: Call) -> Message:
        """Ready or not; health over HTTP says why not."""
        call.answered()
        return _message("ServerReadyResponse", {"ready": self._ports.readiness.verdict().ready})

    async def server(self, _: Message, call: Call) -> Message:
        """Who this is."""
        call.answered()
        return _message("ServerMetadataResponse", server_metadata())

    async def model_ready(self, message: Message, call: Call) -> Message:
        """Whether a version (or the active one) answers; one that does not exist does not, as at Triton."""
        try:
            model = await self._picked(message, call)
        except Refused as error:
            if error.field not in ("name", "version"):
                raise
            return _message("ModelReadyResponse", {"ready": False})
        return _message("ModelReadyResponse", {"ready": model.state is ModelState.READY})

    async def model(self, message: Message, call: Call) -> Message:
        """Metadata of one model."""
        model = await self._picked(message, call)
        models = self._ports.catalog.models(model.tenant)
        told = metadata(model, [each.version for each in models if each.name == model.name])
        # What there is no field for here stands in the configuration.
        del told["parameters"]
        return _message("ModelMetadataResponse", told)

    async def config(self, message: Message, call: Call) -> Message:
        """Configuration of one model."""
        return _message("ModelConfigResponse", {"config": configuration(await self._picked(message, call))})

    async def stats(self, message: Message, call: Call) -> Message:
        """Counters of one version, of all versions of a model, or of every model."""
        tenant = await self._ports.tenant_of(call.headers, True)
        call.answered()
        told = every_statistics(self._ports.catalog, tenant, message.name or None, message.version or None)
        return _message("ModelStatisticsResponse", told)

    async def index(self, message: Message, call: Call) -> Message:
        """The repository's index."""
        tenant = await self._ports.tenant_of(call.headers, True)
        call.answered()
        told = repository_index(self._ports.catalog.models(tenant), ready=message.ready)
        return _message("RepositoryIndexResponse", {"models": told})

    async def control(self, message: Message, call: Call) -> Message:
        """Loading and unloading, which clients may not."""
        await self._ports.tenant_of(call.headers, True)
        raise read_only(message.model_name)

    async def _picked(self, message: Message, call: Call) -> Listed:
        tenant = await self._ports.tenant_of(call.headers, True)
        call.answered()
        return pick(self._ports.catalog.models(tenant), message.name, message.version or None, field="name")


def _message(name: str, document: Mapping[str, object]) -> Message:
    return json_format.ParseDict(msgspec.to_builtins(document), INFERENCE[name]())
