"""The floor of this stack, as a server: aiohttp handlers that do the least that can be called serving.

`python -m bench.floor PORT PROGRAM ...`: `/v2/models/<stem>/infer` decodes the JSON body, runs the one session of one thread
and encodes its first output, without checks, queue, limits or counters. `/null` reads the body and answers a constant.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvloop
from aiohttp import web

DTYPES = {"FP32": np.float32, "INT64": np.int64}
NOTHING = json.dumps(
    {"outputs": [{"name": "logits", "shape": [1, 2], "datatype": "FP32", "data": [0.1, 0.2]}]}
).encode()


def _session(program: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])


def main(port: int, programs: list[str]) -> None:
    """Serve until ended."""
    sessions = {Path(program).stem: _session(program) for program in programs}

    async def infer(request: web.Request) -> web.Response:
        session = sessions[request.match_info["model"]]
        given = json.loads(await request.read())["inputs"]
        arrays = {
            each["name"]: np.asarray(each["data"], DTYPES[each["datatype"]]).reshape(each["shape"]) for each in given
        }
        (found, *_) = session.run(None, arrays)
        output = {"name": "y", "shape": list(found.shape), "datatype": "FP32", "data": found.ravel().tolist()}
        return web.Response(body=json.dumps({"outputs": [output]}).encode(), content_type="application/json")

    async def null(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=NOTHING, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v2/models/{model}/infer", infer)
    app.router.add_post("/null", null)
    web.run_app(app, host="127.0.0.1", port=port, print=None, loop=uvloop.new_event_loop(), access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
