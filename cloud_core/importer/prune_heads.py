"""Structured pruning: a share of a BERT-family model's attention heads is removed for good, before it is exported.

Importance is that of Michel, Levy and Neubig, "Are Sixteen Heads Really Better than One?" (2019, arXiv:1905.10650): how much the
output would move if a head's output did, on the golden inputs; their loss is replaced by fixed random directions of the output,
since the golden set has answers and no labels. Layers are made comparable by their norm, as there, and keep one head at least.

A pruned model is another model: what comes of it is held against the unpruned source's answers, with the bars of `gate`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cloud_core.importer.opened import Opened
from shared.protocol.errors import Refusal, Refused
from shared.serving.sessions.session import Feeds
from shared.serving.tasks.task import Task

DIRECTIONS = 4
_ARCHITECTURES = "models whose attention has query, key, value and an output matrix, as BERT's"


def prune_heads(opened: Opened, ratio: float, task: Task, items: Sequence[object]) -> Opened:
    """The source with the `ratio` least important of all its heads removed.

    Args:
        opened: a torch model of the BERT family; its module is changed.
        ratio: of all heads, over 0 and below 1; rounded down to whole heads.
        task: of the bundle; prepares `items`.
        items: golden inputs that importance is measured on.

    Raises:
        Refused: not a torch model with such attention, or a ratio that removes nothing.

    """
    found = [] if opened.traced is None else _attentions(opened.traced.module)
    if opened.traced is None or not found:
        raise Refused(
            "no attention heads that can be removed",
            kind=Refusal.UNPROCESSABLE,
            field="prune_heads",
            value=opened.architecture,
            allowed=_ARCHITECTURES,
        )
    total = sum(int(each.self.num_attention_heads) for each in found)
    count = int(ratio * total + 1e-9) if 0 < ratio < 1 else 0
    if not count:
        allowed = f"{1 / total:.4f} to below 1: the model has {total} heads"
        raise Refused("removes no head", kind=Refusal.UNPROCESSABLE, field="prune_heads", value=ratio, allowed=allowed)
    inputs = [_tensors(task, item, opened.traced.inputs) for item in items]
    importance = _importance(opened.traced.module, found, inputs)
    removed = _least(importance, count)
    for each, heads in zip(found, removed, strict=True):
        if heads:
            _remove(each, heads)
    gone = sum(map(len, removed))
    return replace(opened, about={**opened.about, "pruned_heads": f"{gone} of {total}, the least important first"})


def _attentions(module: nn.Module) -> list[Any]:
    """Attention blocks in layer order: `.self` has the projections and sizes, `.output.dense` joins the heads."""
    return [each for each in module.modules() if _is_attention(each)]


def _is_attention(module: nn.Module) -> bool:
    inner, outer = getattr(module, "self", None), getattr(getattr(module, "output", None), "dense", None)
    names = ("query", "key", "value")
    sized = all(isinstance(getattr(inner, name, None), int) for name in ("num_attention_heads", "attention_head_size"))
    return sized and isinstance(outer, nn.Linear) and all(isinstance(getattr(inner, n, None), nn.Linear) for n in names)


class _AskedError(Exception):
    """Ends a task once it has said what it would feed its program."""


def _tensors(task: Task, item: object, names: Sequence[str]) -> tuple[Tensor, ...]:
    fed: list[Feeds] = []

    def run(feeds: Feeds) -> Any:
        fed.append(feeds)
        raise _AskedError

    try:
        next(iter(task.steps(run, [task.prepare(item, {"truncate": True})])))
    except _AskedError:
        return tuple(torch.from_numpy(fed[0][name]) for name in names)
    raise ValueError("the task answered without its program")


def _importance(module: nn.Module, found: Sequence[Any], inputs: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """[heads] of each attention block: the mean size of the output's slope by each head's output."""
    gates = [torch.ones(int(each.self.num_attention_heads), requires_grad=True) for each in found]

    def gated(each: Any, gate: Tensor) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (given[0] * gate.repeat_interleave(int(each.self.attention_head_size)), *given[1:])

        return each.output.dense.register_forward_pre_hook(hook)

    hooks = [gated(each, gate) for each, gate in zip(found, gates, strict=True)]
    totals = [torch.zeros_like(gate) for gate in gates]
    generator = torch.Generator().manual_seed(0)
    try:
        for given in inputs:
            output = module(*given)
            values = output if isinstance(output, Tensor) else output[0]
            for _ in range(DIRECTIONS):
                direction = torch.randn(values.shape, generator=generator)
                slopes = torch.autograd.grad((values * direction).sum(), gates, retain_graph=True)
                for total, slope in zip(totals, slopes, strict=True):
                    total.add_(slope.abs())
    finally:
        for hook in hooks:
            hook.remove()
    return [total / total.norm().clamp(min=1e-12) for total in totals]


def _least(importance: Sequence[Tensor], count: int) -> list[list[int]]:
    """The heads to remove of each block: the `count` least of all, no block losing its last."""
    order = sorted(
        (float(value), block, head) for block, values in enumerate(importance) for head, value in enumerate(values)
    )
    removed: list[list[int]] = [[] for _ in importance]
    for _, block, head in order:
        if sum(map(len, removed)) == count:
            break
        if len(removed[block]) + 1 < len(importance[block]):
            removed[block].append(head)
    return removed


def _remove(each: Any, heads: Sequence[int]) -> None:
    inner, size = each.self, int(each.self.attention_head_size)
    kept = torch.tensor([head for head in range(int(inner.num_attention_heads)) if head not in set(heads)])
    rows = (kept[:, None] * size + torch.arange(size)).flatten()
    for name in ("query", "key", "value"):
        _keep(getattr(inner, name), rows, axis=0)
    _keep(each.output.dense, rows, axis=1)
    inner.num_attention_heads = len(kept)
    inner.all_head_size = len(kept) * size


def _keep(linear: nn.Linear, index: Tensor, *, axis: int) -> None:
    with torch.no_grad():
        linear.weight = nn.Parameter(linear.weight.index_select(axis, index).contiguous(), requires_grad=False)
        if axis == 0 and linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias.index_select(0, index).contiguous(), requires_grad=False)
    linear.out_features, linear.in_features = linear.weight.shape
