"""Training tiny-lm for the grid that its int8 variant computes on, so that both variants take the same next characters.

Forward passes see weights on the int8 grid (seven bits per column, eight per row of the position table: what
`cloud_core.importer.int8_weights` keeps) and activations rounded per token; gradients pass straight through (Jacob et al., 2018,
arXiv:1712.05877). In the end the weights themselves are put onto the grid: quantising them then changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

SEVEN_BITS, EIGHT_BITS = 63, 127
SMALLEST = 1e-12
TABLES = {"transformer.wte.weight": SEVEN_BITS, "transformer.wpe.weight": EIGHT_BITS}
"""Embedding tables have a scale per row; that of the words is the output matrix too, and has its seven bits."""


def on_grid(values: Tensor, axis: int, steps: int) -> Tensor:
    """Values rounded to multiples of their row's or column's largest magnitude / `steps`."""
    scale = values.abs().amax(axis, keepdim=True).clamp(min=SMALLEST) / steps
    return torch.round(values / scale) * scale


def rounded_weights(model: GPT2LMHeadModel) -> dict[str, Tensor]:
    """Every matrix by name, on the grid."""
    found = {}
    for name, value in model.named_parameters():
        if name in TABLES:
            found[name] = on_grid(value, 1, TABLES[name])
        elif value.ndim == 2:
            found[name] = on_grid(value, 0, SEVEN_BITS)
    return found


@torch.no_grad()
def put_on_grid(model: GPT2LMHeadModel) -> None:
    """Round the model's matrices in place."""
    for name, value in rounded_weights(model).items():
        model.get_parameter(name).copy_(value)


class OnGrid(nn.Module):
    """The model as its int8 variant computes it; its parameters are those of the model."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor, **named: object) -> object:
        with torch.no_grad():
            steps = {
                name: value - self.model.get_parameter(name) for name, value in rounded_weights(self.model).items()
            }
        weights = {name: self.model.get_parameter(name) + step for name, step in steps.items()}
        with _rounded_activations(self.model):
            return functional_call(self.model, weights, inputs, named, tie_weights=True)


@contextmanager
def _rounded_activations(model: GPT2LMHeadModel) -> Iterator[None]:
    products = [module for module in model.modules() if isinstance(module, Conv1D) or module is model.lm_head]
    hooks = [module.register_forward_pre_hook(_round_inputs) for module in products]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _round_inputs(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    value, *rest = inputs
    with torch.no_grad():
        step = on_grid(value, -1, EIGHT_BITS) - value
    return (value + step, *rest)
