"""What the control plane looks at in a variant beyond what every trial does: ONNX's own checker, and what archives of torch hold."""

from pathlib import Path

from cloud_core.models.inspect_program import inspect_program
from cloud_core.models.inspect_torch import RUNTIME as TORCH
from cloud_core.models.inspect_torch import inspect_torch
from shared.bundle.manifest import Manifest, Variant
from shared.protocol.errors import Refusal, Refused
from shared.serving.trial.contents import ONNX


def inspect_bundle(manifest: Manifest, variant: Variant, folder: Path) -> None:
    """Judge the program of `variant`; the other files were judged before (`shared.serving.trial.contents`). Blocks.

    Raises:
        Refused: it must not be loaded; names the file and what is allowed.

    """
    program = folder / variant.files[0]
    if variant.runtime in ONNX:
        inspect_program(program)
    elif variant.runtime == TORCH:
        inspect_torch(program)
    else:
        place = manifest.variants.index(variant)
        raise Refused(
            "an unknown runtime",
            kind=Refusal.UNPROCESSABLE,
            field=f"variants[{place}].runtime",
            value=variant.runtime,
            allowed=", ".join((*ONNX, TORCH)),
            code="unknown-runtime",
        )
