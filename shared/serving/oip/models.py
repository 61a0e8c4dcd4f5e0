"""What Open Inference Protocol v2 tells of models: metadata, configuration, the repository index, statistics, the server itself."""

import importlib.metadata
from collections.abc import Sequence

from shared.bundle.manifest import TaskKind, TensorSpec
from shared.protocol.errors import Refusal, Refused
from shared.protocol.reported import ModelState
from shared.serving.arrangement import ONNXRUNTIME, OPENVINO, TORCH
from shared.serving.catalog import Catalog, Duration, Listed, Statistics, pick
from shared.serving.oip.results import inputs_of, outputs_of

EXTENSIONS = ("binary_tensor_data", "schedule_policy", "model_configuration", "model_repository", "statistics")
_PLATFORMS = {
    ONNXRUNTIME: ("onnxruntime_onnx", "onnxruntime"),
    OPENVINO: ("openvino", "openvino"),
    TORCH: ("pytorch_libtorch", "pytorch"),
}
"""By what runs the program, in Triton's words: platform and backend."""


def server_metadata() -> dict[str, object]:
    """What `GET /v2` tells."""
    return {"name": "tideline", "version": importlib.metadata.version("tideline"), "extensions": EXTENSIONS}


def metadata(model: Listed, versions: Sequence[str]) -> dict[str, object]:
    """What `GET /v2/models/{m}` tells."""
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": _PLATFORMS[model.runtime][0],
        "inputs": inputs_of(model),
        "outputs": outputs_of(model),
        "parameters": {**_facts(model), "batch_invariant": model.batch_invariant},
    }


def configuration(model: Listed) -> dict[str, object]:
    """What Triton calls the model's configuration, as far as it means something here.

    `max_batch_size` is 0 where a request is computed as it comes, and shapes are whole then. Where it is more, rows of several requests
    are computed together, so many at the most, and shapes are those of one row; a request with more rows is computed all the same.
    `decoupled`: on a stream, one request gets several answers.
    """
    platform, backend = _PLATFORMS[model.runtime]
    facts = {**_facts(model), "batch_invariant": str(model.batch_invariant).lower()}
    return {
        "name": model.name,
        "platform": platform,
        "backend": backend,
        "max_batch_size": model.max_batch_size,
        "input": _sides(inputs_of(model), rows=model.max_batch_size),
        "output": _sides(outputs_of(model), rows=model.max_batch_size),
        "model_transaction_policy": {"decoupled": model.task is TaskKind.TEXT_GENERATION},
        "parameters": {name: {"string_value": value} for name, value in facts.items()},
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


def read_only(name: str) -> Refused:
    """The refusal of loading or unloading `name`."""
    return Refused(
        "the model repository is read-only: a version comes and goes with its generation, or with the arguments of its server",
        kind=Refusal.METHOD,
        field="model",
        value=name,
    )


def every_statistics(
    catalog: Catalog, tenant: str, name: str | None = None, version: str | None = None
) -> dict[str, object]:
    """What `GET …/stats` tells: of every model, of all versions of one, or of one version.

    Raises:
        Refused: no such model or version.

    """
    models = catalog.models(tenant)
    if name is not None:
        pick(models, name, version)
        models = [model for model in models if model.name == name and version in (None, model.version)]
    return {
        "model_stats": [
            statistics(model, catalog.statistics(model.tenant, model.name, model.version)) for model in models
        ]
    }


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
            "cache_hit": counted.cache_hit,
            "cache_miss": counted.cache_miss,
        },
        "batch_stats": [
            {"batch_size": size, "compute_input": none, "compute_infer": duration, "compute_output": none}
            for size, duration in counted.batches.items()
        ],
        "memory_usage": []
        if counted.resident_bytes is None
        else [{"type": "CPU", "id": 0, "byte_size": counted.resident_bytes}],
    }


def _facts(model: Listed) -> dict[str, str]:
    return {"task": model.task.value, "variant": model.variant, "digest": model.digest}


def _sides(specs: Sequence[TensorSpec], *, rows: int) -> list[dict[str, object]]:
    return [
        {"name": spec.name, "data_type": _type(spec.datatype), "dims": spec.shape[1:] if rows else spec.shape}
        for spec in specs
    ]


def _type(datatype: str) -> str:
    return f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}"
