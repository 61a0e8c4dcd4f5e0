"""Section 3 over gRPC: an unmodified `tritonclient` at an edge and at a replica, and what metadata carry."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.cloud_core.waiting import wait_for
from tests.contract.conftest import Door, Edge
from tests.contract.test_clients import texts as texts_over_http
from tests.contract.test_http_inference import LONG, OTHER, TEXT
from tests.e2e.scene import Scene

INFER = "/inference.GRPCInferenceService/ModelInfer"
CHECK = "/grpc.health.v1.Health/Check"


def texts(*values: str) -> Any:
    made = triton.InferInput("text", [len(values)], "BYTES")
    made.set_data_from_numpy(np.array(values, dtype=np.object_))
    return made


def request(model: str, *values: str) -> bytes:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(values)]}
    tensor["contents"] = {"bytes_contents": [value.encode() for value in values]}
    message: bytes = triton.service_pb2.ModelInferRequest(model_name=model, inputs=[tensor]).SerializeToString()
    return message


def address(door: Door) -> str:
    return f"127.0.0.1:{door.get('/health').json['grpc']['port']}"


@pytest.fixture
def server(edge: Edge) -> Iterator[Any]:
    with triton.InferenceServerClient(address(edge)) as client:
        yield client


def test_triton_tells_of_server_and_models(server: Any) -> None:
    assert server.is_server_live()
    assert server.is_server_ready()
    assert server.is_model_ready("sentiment-zh", "1.0.0")
    assert not server.is_model_ready("nope")
    assert server.get_server_metadata().name == "tideline"
    assert server.get_model_metadata("double").inputs[0].datatype == "FP32"
    assert server.get_model_config("ner-zh").config.input[0].name == "text"
    index = {each.name: each.state for each in server.get_model_repository_index().models}
    assert index["ner-zh"] == "READY"
    assert {each.name for each in server.get_inference_statistics().model_stats} == index.keys()


def test_an_answer_over_grpc_is_the_one_over_http(server: Any, edge: Edge) -> None:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{edge.port}", network_timeout=60, connection_timeout=60)
    for model, outputs in (
        ("sentiment-zh", ("label", "score", "scores")),
        ("ner-zh", ("entities",)),
        ("embed-zh", ("embedding",)),
    ):
        over_grpc = server.infer(model, [texts(TEXT, OTHER)], request_id="g", client_timeout=60)
        over_http = client.infer(model, [texts_over_http(TEXT, OTHER, binary=True)], request_id="g")
        for name in outputs:
            one, other = over_grpc.as_numpy(name), over_http.as_numpy(name)
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            if one.dtype.kind == "f":
                np.testing.assert_allclose(one, other, atol=1e-6)
            else:
                assert [bytes(value) for value in one] == [str(value).encode() for value in _text(other)]
        told = over_grpc.get_response()
        assert (told.id, told.model_name, told.model_version) == ("g", model, over_http.get_response()["model_version"])
        assert told.parameters.keys() == over_http.get_response()["parameters"].keys()
    client.close()


def _text(array: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else value for value in array]


def test_metadata_both_ways(edge: Edge) -> None:
    message = request("sentiment-zh", TEXT)
    with grpc.insecure_channel(address(edge)) as channel:
        call = channel.unary_unary(INFER)
        given = (("x-request-id", "meta-1"), ("x-tideline-privacy", "local-only"), ("x-tideline-deadline-ms", "60000"))
        _, answer = call.with_call(message, metadata=given)
        told = dict(answer.trailing_metadata())
        assert (told["x-request-id"], told["x-tideline-where"]) == ("meta-1", "local")
        assert told["x-tideline-model"].startswith("sentiment-zh@1.0.0/")
        assert float(told["x-tideline-compute-ms"]) > 0
        assert edge.get("/v1/why/meta-1").json["outcome"] == "ok"
        for name, value in (("x-tideline-deadline-ms", "soon"), ("x-tideline-priority", "-1")):
            with pytest.raises(grpc.RpcError) as caught:
                call(message, metadata=((name, value),))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_refusals_have_their_codes(server: Any, edge: Edge) -> None:
    for call, code, says in (
        (lambda: server.get_model_metadata("nope"), "NOT_FOUND", "unknown model"),
        (lambda: server.infer("nope", [texts(TEXT)]), "NOT_FOUND", "unknown model"),
        (lambda: server.infer("sentiment-zh", [texts(LONG)]), "INVALID_ARGUMENT", "128"),
        (lambda: server.infer("double", [texts(TEXT)]), "INVALID_ARGUMENT", "input"),
    ):
        with pytest.raises(InferenceServerException, match=says) as caught:
            call()
        assert caught.value.status() == f"StatusCode.{code}"
    message = request("embed-zh", *["好" * 120] * 1000)

    def shed() -> grpc.RpcError | None:
        with grpc.insecure_channel(address(edge)) as channel:
            try:
                channel.unary_unary(INFER)(message, metadata=(("x-tideline-deadline-ms", "100"),))
            except grpc.RpcError as error:
                # A busy machine may be late before it can see that it will be.
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    return error
        return None

    refused = wait_for(shed, within=60)
    assert refused is not None
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told = dict(refused.trailing_metadata())
    assert int(told["grpc-retry-pushback-ms"]) > 0
    assert b"type.googleapis.com/google.rpc.RetryInfo" in told["grpc-status-details-bin"]


def test_a_replica_answers_beside_its_http_port(platform: Scene, doors: dict[str, Door]) -> None:
    replica = doors["replica-0"]
    wait_for(lambda: replica.get("/ready").status == 200, within=60)
    assert replica.get("/health").json["grpc"] == {"port": replica.port + 1}
    with grpc.insecure_channel(address(replica)) as channel:
        assert channel.unary_unary(CHECK)(b"") == b"\x08\x01"
    with triton.InferenceServerClient(address(replica)) as client:
        result = client.infer("sentiment-zh", [texts(TEXT)], headers={"x-tideline-tenant": "default"})
        assert result.as_numpy("label")[0].decode() == "正面"
        assert result.get_response().parameters["where"].string_param == "cloud"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("sentiment-zh", [texts(TEXT)], headers={"x-tideline-tenant": "stranger"})
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_the_gateway_wants_a_token_and_answers_from_its_replicas(gateway: Door) -> None:
    token = {"authorization": gateway.headers["Authorization"]}
    with triton.InferenceServerClient(address(gateway)) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("sentiment-zh", headers=token)
        result = client.infer("sentiment-zh", [texts(TEXT, OTHER)], headers=token | {"x-request-id": "gate-1"})
        assert [label.decode() for label in result.as_numpy("label")] == ["正面", "负面"]
        assert gateway.get("/v1/why/gate-1").json["outcome"] == "ok"
        for headers in ({}, {"authorization": "Bearer wrong"}):
            for call in (
                lambda: client.infer("sentiment-zh", [texts(TEXT)], headers=headers),  # noqa: B023
                lambda: client.get_model_metadata("sentiment-zh", headers=headers),  # noqa: B023
            ):
                with pytest.raises(InferenceServerException) as caught:
                    call()
                assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
