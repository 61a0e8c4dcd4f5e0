"""A decoder's folder in Hugging Face form, opened with nothing fetched and no code of its own, and checked for what a graph can say."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM

from cloud_core.importer.hub_files import CONFIG, Json, read_object
from shared.protocol.errors import Refusal, Refused

MODELS = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}
"""By `model_type`; no Auto class, so that nothing else than these can be built."""
STEADY_ROPES = ("default", "linear", "llama3", "yarn")
"""Position encodings that do not change with the length read so far; a graph has one."""
_BUFFERS = ("attn.bias", "attn.masked_bias", "rotary_emb.inv_freq")
"""What older checkpoints store beside their weights; it follows from the configuration."""
_SHOWN = 5


def open_decoder(folder: Path) -> tuple[Any, Any]:
    """The model in fp32, and its tokenizer.

    Raises:
        Refused: another kind of model, a setting the graph cannot follow, weights that are missing or left over, no vocabulary.

    """
    config = read_object(folder / CONFIG) or {}
    family = config.get("model_type")
    if family not in MODELS:
        raise _unsupported("model_type", family, ", ".join(MODELS))
    _check_settings(config)
    try:
        model, loading = MODELS[family].from_pretrained(
            str(folder),
            local_files_only=True,
            attn_implementation="sdpa",
            dtype=torch.float32,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:
        raise _unopened(error) from error
    missing, extra = loading["missing_keys"], [k for k in loading["unexpected_keys"] if not k.endswith(_BUFFERS)]
    for names, what in (
        (missing, "are not in the folder and would be random"),
        (extra, "are in no place of the model"),
    ):
        if names:
            raise Refused(
                f"{len(names)} weights {what}: {_listed(names)}",
                kind=Refusal.UNPROCESSABLE,
                field=CONFIG,
                allowed="a configuration that says how these weights are to be used, and all of them",
            )
    return model.eval(), _tokenizer(folder)


def _check_settings(config: Json) -> None:
    """Refuse what the graph would silently do otherwise."""
    unlike = {
        "scale_attn_weights": (True, "true"),
        "scale_attn_by_inverse_layer_idx": (False, "false"),
        "add_cross_attention": (False, "false"),
        "quantization_config": (None, "weights as they are, not quantized"),
    }
    for name, (wanted, allowed) in unlike.items():
        if config.get(name, wanted) != wanted:
            raise _unsupported(name, config[name], allowed)
    rope = config.get("rope_scaling")
    kind = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, dict) else "default"
    if kind not in STEADY_ROPES:
        raise _unsupported("rope_scaling", kind, ", ".join(STEADY_ROPES))


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(str(folder), use_fast=True, local_files_only=True, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:
        raise _unopened(error) from error


def _unsupported(field: str, value: object, allowed: str) -> Refused:
    return Refused(
        "a decoder that cannot be exported",
        kind=Refusal.UNSUPPORTED,
        field=f"{CONFIG}.{field}",
        value=value,
        allowed=allowed,
    )


def _unopened(error: Exception) -> Refused:
    # Whatever a library raises over a folder means that the folder is not of a form it knows.
    reason = " ".join(str(error).split())[:300]
    return Refused(
        f"transformers cannot open the folder: {type(error).__name__}: {reason}",
        kind=Refusal.UNPROCESSABLE,
        field="source",
    )


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
