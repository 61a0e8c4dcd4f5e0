"""What Open Inference Protocol v2 tells of models: metadata, the repository index, statistics, the server itself."""

from collections.abc import Sequence

from shared.protocol.reported import ModelState
from shared.serving.catalog import Duration, Listed, Statistics
from shared.serving.oip_results import inputs_of, outputs_of

EXTENSIONS = ("binary_tensor_data", "schedule_policy", "model_repository", "statistics")


def metadata(model: Listed, versions: Sequence[str]) -> dict[str, object]:
    """What `GET /v2/models/{m}` tells."""
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": inputs_of(model),
        "outputs": outputs_of(model),
        "parameters": {"task": model.task.value, "variant": model.variant, "digest": model.digest},
    }


def repository_index(models: Sequence[Listed], *, ready: bool) -> list[dict[str, str]]:
    """What `POST /v2/repository/index` tells, in Triton's words; `ready` leaves out the rest."""
    words = {ModelState.READY: "READY", ModelState.LOADING: "LOADING", ModelState.WARMING: "LOADING"}
    words |= {ModelState.DRAINING: "UNLOADING", ModelState.FAILED: "UNAVAILABLE"}
    return [
        {
            "name": model.name,
            "version": model.version,
            "state": words.get(model.state, "UNAVAILABLE"),
            "reason": model.reason,
        }
        for model in models
        if not ready or model.state is ModelState.READY
    ]


def statistics(model: Listed, counted: Statistics) -> dict[str, object]:
    """One entry of `GET …/stats`: durations are totals in nanoseconds."""
    none = Duration()
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": counted.last_ms,
        "inference_count": counted.inferences,
        "execution_count": counted.executions,
        "inference_stats": {
            "success": counted.success,
            "fail": counted.fail,
            "queue": counted.queue,
            "compute_input": none,
            "compute_infer": counted.compute,
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {"batch_size": size, "compute_input": none, "compute_infer": duration, "compute_output": none}
            for size, duration in counted.batches.items()
        ],
    }
