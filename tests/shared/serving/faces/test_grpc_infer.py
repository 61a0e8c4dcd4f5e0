"""Tensors over gRPC against a real server: every datatype, typed and raw, small and large."""

import asyncio

import grpc
import numpy as np
import pytest

from shared.serving.oip.tensors import to_binary
from shared.serving.sessions.datatypes import OF_ONNX
from shared.serving.versions.plain_onnx import tried_onnx
from tests.shared.serving.bundles import TENANT, engine
from tests.shared.serving.every_datatype import ELEMENTS, VALUES, array_of, identities
from tests.shared.serving.faces.grpc_served import served, text, with_models
from tests.shared.serving.in_process import try_in_process

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def test_every_onnx_datatype_both_ways(tmp_path):
    typed = [name for name in ELEMENTS if name in CONTENTS]
    untyped = ["FP16", "BF16"]

    async def main():
        assert set(ELEMENTS) == set(OF_ONNX.values()) == {*typed, *untyped}
        async with engine() as made:
            for path in (identities(tmp_path / "untyped.onnx", untyped), identities(tmp_path / "typed.onnx", typed)):
                manifest = await tried_onnx(path, trial=try_in_process)
                await made.load(TENANT, manifest, path.stem[0] * 64, tmp_path, "cpu")
            made.activate(TENANT, {"untyped": "1.0.0", "typed": "1.0.0"})
            async with served(made) as server:
                for model, names in (("untyped", untyped), ("typed", typed)):
                    inputs = [{"name": f"in_{name}", "datatype": name, "shape": [2]} for name in names]
                    raw = [to_binary(array_of(name)) for name in names]
                    answer = await server.ask("ModelInfer", model_name=model, inputs=inputs, raw_input_contents=raw)
                    outputs = [(output.name, output.datatype, list(output.shape)) for output in answer.outputs]
                    assert outputs == [(f"out_{name}", name, [2]) for name in names]
                    assert list(answer.raw_output_contents) == raw
                inputs = [
                    {"name": f"in_{name}", "datatype": name, "shape": [2], "contents": {CONTENTS[name]: VALUES[name]}}
                    for name in typed
                ]
                answer = await server.ask("ModelInfer", model_name="typed", inputs=inputs)
                assert not answer.raw_output_contents
                for name, output in zip(typed, answer.outputs, strict=True):
                    assert list(getattr(output.contents, CONTENTS[name])) == VALUES[name]

    asyncio.run(main())


def test_an_answer_comes_as_its_request_did(tmp_path):
    async def check(server):
        x = np.array([[1, 2, np.nan]], np.float32)
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
        raw = {"inputs": [tensor], "raw_input_contents": [x.tobytes()]}
        answer = await server.ask("ModelInfer", model_name="adder", id="mine", **raw)
        (output,) = answer.outputs
        assert (answer.id, output.name, output.datatype, list(output.shape)) == ("mine", "y", "FP32", [1, 3])
        np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32), [2, 4, np.nan])
        tensor["contents"] = {"fp32_contents": x.ravel()}
        answer = await server.ask("ModelInfer", model_name="adder", inputs=[tensor])
        assert not answer.raw_output_contents
        np.testing.assert_array_equal(answer.outputs[0].contents.fp32_contents, [2, 4, np.nan])
        answer = await server.ask("ModelInfer", model_name="ner", **text("王明去北京", "去"))
        first, second = answer.outputs[0].contents.bytes_contents
        assert ("王明" in first.decode(), second) == (True, b"[]")

    with_models(tmp_path, check)


def test_a_large_message_is_decoded_all_the_same(tmp_path):
    async def check(server):
        x = np.arange(300_000, dtype=np.float32).reshape(-1, 3)
        tensor = {"name": "x", "datatype": "FP32", "shape": x.shape}
        answer = await server.ask("ModelInfer", model_name="adder", inputs=[tensor], raw_input_contents=[x.tobytes()])
        assert answer.raw_output_contents[0] == (x * 2).tobytes()
        tensor["contents"] = {"fp32_contents": x.ravel()}
        answer = await server.ask("ModelInfer", model_name="adder", inputs=[tensor])
        np.testing.assert_array_equal(answer.outputs[0].contents.fp32_contents, x.ravel() * 2)
        with pytest.raises(grpc.aio.AioRpcError, match="not a message"):
            await server.call("ModelInfer", b"\xff" * 300_000)

    with_models(tmp_path, check)
