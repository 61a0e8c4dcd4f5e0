"""How the program of each variant is made from the fp32 one. A variant may have several forms: the next is nearer to fp32.

| variant | program | why |
|---|---|---|
| `cpu-fp32` | as exported | what all others are held against |
| `cpu-int8` | `int8_per_token`, fine (plain where the source says so) | a quarter of the bytes, the same answer in any batch |
| `cpu-int8-dynamic` | `int8_dynamic` | on request: what ONNX Runtime makes; depends on batch mates, and is marked so |
| `cpu-int8-static` | `int8_static` | on request: convolutions; only where it gains over fp32 on this machine |
| `cuda-fp16` | `fp16` | GPUs by ONNX Runtime |
| `torch` | `torch_program` | GPUs by torch |

There is no bf16 variant, because no session on a CPU gains by the file being bf16: on x86, ONNX Runtime 1.31 has no bf16 MatMul (a
model with one does not load: NOT_IMPLEMENTED), on Arm it multiplies an fp32 file's matrices in bf16 where a session option asks for it
(`mlas.enable_gemm_fastmath_arm64_bfloat16`), and on a GPU fp16 is as fast and three bits nearer to fp32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import onnx
from onnx import ModelProto

from cloud_core.importer.answers import recorded_feeds
from cloud_core.importer.folding import Array, fold_constants
from cloud_core.importer.fp16 import PROVIDER, write_fp16
from cloud_core.importer.fp16_weights import store_weights_as_fp16
from cloud_core.importer.gain import check_gain, gain
from cloud_core.importer.int8_dynamic import write_dynamic
from cloud_core.importer.int8_per_token import quantize_per_token, quantized_activations
from cloud_core.importer.int8_static import write_static
from cloud_core.importer.opened import Opened
from cloud_core.importer.smoothing import activations_of
from cloud_core.replicas.runtimes import TORCH, signature_path
from shared.bundle.manifest import Manifest, Requirements, Variant
from shared.protocol.errors import Refusal, Refused

FP32, INT8, DYNAMIC, STATIC, FP16, TORCH_VARIANT = (
    "cpu-fp32", "cpu-int8", "cpu-int8-dynamic", "cpu-int8-static", "cuda-fp16", "torch",
)  # fmt: skip
FILES: Mapping[str, str] = {
    FP32: "model.fp32.onnx",
    INT8: "model.int8.onnx",
    DYNAMIC: "model.int8-dynamic.onnx",
    STATIC: "model.int8-static.onnx",
    FP16: "model.fp16.onnx",
    TORCH_VARIANT: "model.pt2",
}
_SAMPLED = 600
"""Tokens (or numbers of the first input) that samples of activations are taken from."""


@dataclass(frozen=True)
class Making:
    """What variants are made of. `manifest` has the fp32 variant, whose program lies in `folder`; `items` are its golden inputs."""

    opened: Opened
    manifest: Manifest
    folder: Path
    items: Sequence[object]

    @property
    def fp32(self) -> Path:
        """The fp32 program."""
        return self.folder / FILES[FP32]

    @cached_property
    def samples(self) -> list[Mapping[str, Array]]:
        """What goes into the program for short items: those are most alike to what is asked in life."""
        items = sorted(self.items, key=lambda item: len(item) if isinstance(item, str) else 0)
        return recorded_feeds(self.manifest, self.folder, FP32, items, most=_SAMPLED)


def fp32_variant() -> Variant:
    """What every other variant is held against; its program is `FILES["cpu-fp32"]`."""
    return _variant(FP32, "fp32")


def forms(name: str, making: Making) -> Iterator[Variant]:
    """The variant `name`, its program written into the folder; once for each form, the later ones nearer to fp32.

    Raises:
        Refused: there is no such variant, or none of this source; or it gains nothing here.

    """
    if name not in _MAKERS:
        allowed = ", ".join(_MAKERS)
        raise Refused("no such variant", kind=Refusal.UNPROCESSABLE, field="variants", value=name, allowed=allowed)
    yield from _MAKERS[name](making)


def narrow_weights(path: Path) -> None:
    """Store the weights of the program at `path` as fp16 where that loses nothing, as of a checkpoint that was saved so."""
    model = onnx.load(str(path))
    before = len(model.graph.node)
    store_weights_as_fp16(model)
    if len(model.graph.node) > before:
        _write(model, path)


def _fp32(making: Making) -> Iterator[Variant]:  # noqa: ARG001 - it is there already
    yield fp32_variant()


def _int8(making: Making) -> Iterator[Variant]:
    for fine in (False, True) if making.opened.plain_int8 else (True,):
        model = onnx.load(str(making.fp32))
        fold_constants(model)
        seen = activations_of(model, quantized_activations(model), making.samples) if fine else None
        quantize_per_token(model, seen=seen)
        store_weights_as_fp16(model)
        _write(model, making.folder / FILES[INT8])
        yield _variant(INT8, "int8")


def _dynamic(making: Making) -> Iterator[Variant]:
    write_dynamic(making.fp32, making.folder / FILES[DYNAMIC])
    yield _variant(DYNAMIC, "int8", batch_invariant=False)


def _static(making: Making) -> Iterator[Variant]:
    path = making.folder / FILES[STATIC]
    write_static(making.fp32, path, making.samples)
    check_gain(STATIC, gain(making.fp32, path, making.samples))
    yield _variant(STATIC, "int8")


def _fp16(making: Making) -> Iterator[Variant]:
    write_fp16(making.fp32, making.folder / FILES[FP16])
    yield _variant(FP16, "fp16", requirements=Requirements(providers=(PROVIDER,)))


def _torch(making: Making) -> Iterator[Variant]:
    if making.opened.traced is None:
        raise Refused(
            "the source is no torch model",
            kind=Refusal.UNPROCESSABLE,
            field=f"variants.{TORCH_VARIANT}",
            value=making.opened.architecture,
            allowed=", ".join(name for name in _MAKERS if name != TORCH_VARIANT),
        )
    # torch is loaded by then: the source was opened with it.
    from cloud_core.importer.torch_program import write_program  # noqa: PLC0415

    path = making.folder / FILES[TORCH_VARIANT]
    write_program(making.opened.traced, path)
    found = _variant(TORCH_VARIANT, "fp32", runtime=TORCH, requirements=Requirements(providers=()))
    yield msgspec.structs.replace(found, files=(path.name, signature_path(path).name))


_MAKERS: Mapping[str, Callable[[Making], Iterator[Variant]]] = {
    FP32: _fp32,
    INT8: _int8,
    DYNAMIC: _dynamic,
    STATIC: _static,
    FP16: _fp16,
    TORCH_VARIANT: _torch,
}


def _variant(
    name: str,
    precision: str,
    *,
    runtime: str = "onnx",
    requirements: Requirements = Requirements(),  # noqa: B008 - a frozen value
    batch_invariant: bool = True,
) -> Variant:
    return Variant(
        name=name,
        runtime=runtime,
        precision=precision,
        files=(FILES[name],),
        requirements=requirements,
        batch_invariant=batch_invariant,
    )


def _write(model: ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))
