"""Every datatype over HTTP, as an unmodified `tritonclient` sends it; and what JSON has no form for."""

import asyncio

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from shared.serving.oip.tensors import HEADER_LENGTH
from shared.serving.versions.plain_onnx import tried_onnx
from tests.shared.serving.bundles import TENANT, adder, engine
from tests.shared.serving.every_datatype import ELEMENTS, VALUES, identities
from tests.shared.serving.faces.server import everything, serving
from tests.shared.serving.in_process import try_in_process

MODELS = {"plain": [name for name in ELEMENTS if name != "BF16"], "half": ["BF16", "FP32"]}
FINITE = VALUES | {name: [65504.0, -0.5] for name in ("FP16", "FP32", "FP64")}


def numpy_of(name, values):
    if name == "BF16":
        return np.array(values, ml_dtypes.bfloat16)
    kinds = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_, "BOOL": np.bool_}
    return np.array(values, kinds.get(name) or name.lower())


def with_every_datatype(folder, check):
    async def main():
        async with engine() as made:
            for name, datatypes in MODELS.items():
                manifest = await tried_onnx(identities(folder / f"{name}.onnx", datatypes), trial=try_in_process)
                await made.load(TENANT, manifest, name[0] * 64, folder, "cpu")
            await made.load(
                TENANT, await tried_onnx(adder(folder / "adder.onnx"), trial=try_in_process), "a" * 64, folder, "cpu"
            )
            made.activate(TENANT, dict.fromkeys((*MODELS, "adder"), "1.0.0"))
            async with serving(made) as server, InferenceServerClient(server.url.removeprefix("http://")) as client:
                await check(server, client)

    asyncio.run(main())


def given(name, values, *, binary=True):
    tensor = triton.InferInput(f"in_{name}", [len(values)], name)
    tensor.set_data_from_numpy(numpy_of(name, values), binary_data=binary)
    return tensor


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritonclient_sends_and_gets_every_datatype(tmp_path, model, binary_in, binary_out):
    async def check(_, client):
        told = {tensor["name"]: tensor["datatype"] for tensor in (await client.get_model_metadata(model))["inputs"]}
        assert told == {f"in_{name}": name for name in MODELS[model]}
        config = await client.get_model_config(model)
        types = {f"out_{name}": f"TYPE_{'STRING' if name == 'BYTES' else name}" for name in MODELS[model]}
        assert {tensor["name"]: tensor["data_type"] for tensor in config["output"]} == types
        values = VALUES if binary_in and binary_out else FINITE
        # The client itself sends BF16 as bytes only.
        inputs = [given(name, values[name], binary=binary_in or name == "BF16") for name in MODELS[model]]
        outputs = [triton.InferRequestedOutput(f"out_{name}", binary_data=binary_out) for name in MODELS[model]]
        result = await client.infer(model, inputs, outputs=outputs)
        for name in MODELS[model]:
            assert result.get_output(f"out_{name}")["datatype"] == name
            if name == "BF16" and not binary_out:
                assert result.get_output("out_BF16")["data"] == values["BF16"]
                continue
            found = result.as_numpy(f"out_{name}")
            wanted = numpy_of(name, values[name])
            if name == "BYTES" and not binary_out:
                found = np.array([text.encode() for text in found], np.object_)
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)

    with_every_datatype(tmp_path, check)


def test_bf16_as_json_is_rounded_to_the_nearest(tmp_path):
    async def check(server, _):
        # 1 + 2**-8 lies between two neighbours, and the even one of them is 1; 1 + 3 * 2**-8 goes up.
        data = [1 + 2**-8, 1 + 3 * 2**-8, -3.0e38, 2**-130]
        inputs = [
            {"name": "in_BF16", "datatype": "BF16", "shape": [4], "data": data},
            {"name": "in_FP32", "datatype": "FP32", "shape": [4], "data": data},
        ]
        status, _, body = await server.post("/v2/models/half/infer", {"inputs": inputs})
        assert status == 200, body
        found = {output["name"]: output["data"] for output in body["outputs"]}["out_BF16"]
        assert found == [float(ml_dtypes.bfloat16(value)) for value in data] == [1.0, 1 + 2**-6, found[2], 2**-130]

    with_every_datatype(tmp_path, check)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_has_no_form_for_is_refused_as_json_and_answered_as_bytes(tmp_path, value):
    async def check(_, client):
        inputs = [given(name, [value, 1.0]) for name in MODELS["half"]]
        result = await client.infer("half", inputs)
        for name in MODELS["half"]:
            found = result.as_numpy(f"out_{name}").astype(np.float32)
            np.testing.assert_array_equal(found, np.array([value, 1.0], np.float32))
        for name in MODELS["half"]:
            outputs = [triton.InferRequestedOutput(f"out_{each}", binary_data=each != name) for each in MODELS["half"]]
            with pytest.raises(InferenceServerException, match=f"outputs.out_{name}.*binary_data"):
                await client.infer("half", inputs, outputs=outputs)

    with_every_datatype(tmp_path, check)


def test_a_body_without_json_is_the_models_one_input(tmp_path):
    async def main():
        async with everything(tmp_path) as server:

            async def raw(model, body):
                return await server.session.post(
                    f"{server.url}/v2/models/{model}/infer", data=body, headers={HEADER_LENGTH: "0"}
                )

            x = np.arange(6, dtype=np.float32)
            answer = await raw("adder", x.tobytes())
            assert answer.status == 200
            assert (await answer.read())[int(answer.headers[HEADER_LENGTH]) :] == (x * 2).tobytes()
            for model, body in (("sentiment-tiny", "好".encode()), ("echo", b"")):
                assert (await raw(model, body)).status == 200
            for model, body, status, says in (
                ("adder", x.tobytes()[1:], 400, "a multiple of 12"),
                ("sentiment-tiny", b"\xff", 400, "UTF-8"),
                ("sentiment-tiny", b"", 422, "empty"),
            ):
                answer = await raw(model, body)
                document = await answer.json()
                assert (answer.status, says in document["error"]) == (status, True), document

    asyncio.run(main())


def test_a_body_without_json_is_refused_where_it_does_not_say_enough(tmp_path):
    async def check(server, _):
        for model, datatypes in MODELS.items():
            headers = {HEADER_LENGTH: "0"}
            status, _, body = await server.post(f"/v2/models/{model}/infer", data=b"1234", headers=headers)
            assert (status, f"the model has {len(datatypes)} inputs" in body["error"]) == (422, True)

    with_every_datatype(tmp_path, check)
