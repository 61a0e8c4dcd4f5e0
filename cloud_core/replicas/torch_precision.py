"""A torch program in bf16 or fp16: its products are computed in it, the rest as torch's automatic casts have it.

Casting the whole program would be faster still and wrong for some: positions beyond 256 are no bf16 numbers, and masks made of the
smallest FP32 number become infinite. Automatic casts keep sums, norms and positions in FP32; what they would convert anew in every
run, the weights of products, is converted once.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch

from shared.io.processor import COMPUTE_BF16, processor
from shared.protocol.errors import Refusal, Refused

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_PRODUCTS = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d")


def dtype_here(precision: str, device: str) -> torch.dtype | None:
    """What products are computed in on `device`; None for the program's own precision.

    Raises:
        Refused: another word, or nothing `device` computes in.

    """
    if not precision or precision == "fp32":
        return None
    dtype = DTYPES.get(precision)
    if dtype is None:
        raise _refused("torch has no such precision here", precision, f"{', '.join(DTYPES)}, or none for fp32")
    if torch.device(device).type == "cpu":
        if dtype is torch.float16:
            raise _refused("fp16 is for GPUs", precision, "bf16, or none for fp32")
        if not COMPUTE_BF16 & set(processor().features):
            raise _refused("this processor does not compute in bf16", precision, "none, for fp32")
    elif dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise _refused("this GPU does not compute in bf16", precision, "fp16, or none for fp32")
    return dtype


def lowered(module: Any, dtype: torch.dtype) -> Any:
    """`module`, a graph of operators, with the weights of its products in `dtype`; to be run under `casting`."""
    graph = module.graph
    for node in list(graph.nodes):
        # What the graph was captured with is asserted in it, precision included.
        if _name(node) == "_assert_tensor_metadata":
            graph.erase_node(node)
    users: dict[str, list[Any]] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            users.setdefault(node.target, []).extend(node.users)
    for target, by in users.items():
        if by and all(_name(user) in _PRODUCTS for user in by):
            _cast(module, target, dtype)
    module.recompile()
    return module


def casting(device: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Automatic casts of this thread to `dtype`, or none."""
    kind = torch.device(device).type
    found: AbstractContextManager[Any] = torch.autocast(
        kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False
    )
    return found


def _cast(module: Any, target: str, dtype: torch.dtype) -> None:
    path, _, name = target.rpartition(".")
    owner = module.get_submodule(path)
    value = getattr(owner, name)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return
    value = value.detach().to(dtype)
    setattr(owner, name, torch.nn.Parameter(value, requires_grad=False) if name in owner._parameters else value)  # noqa: SLF001


def _name(node: Any) -> str:
    """The operator's own name, such as `linear` of `aten.linear.default`; empty for what is none."""
    overloads = getattr(node.target, "overloadpacket", None)
    return "" if overloads is None else str(overloads.__name__)


def _refused(message: str, value: str, allowed: str) -> Refused:
    return Refused(message, kind=Refusal.UNSUPPORTED, field="arrangement.precision", value=value, allowed=allowed)
