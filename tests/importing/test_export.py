"""The export: a program that computes what torch computes, in any size, with every input, and with nothing of this machine in it."""

import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from cloud_core.importer import export as exporting
from cloud_core.importer.export import export
from cloud_core.importer.opened import Opened, Traced
from cloud_core.importer.running import run_session
from shared.bundle.manifest import Processing, TaskKind
from shared.protocol.errors import Refusal, Refused

pytestmark = pytest.mark.slow
IDS = torch.arange(6).reshape(2, 3)
LONGER = torch.arange(20).reshape(2, 10)


class Plain(torch.nn.Module):
    """Sums of embedded ids; never reads its second input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(32, 4)

    def forward(self, ids: torch.Tensor, unread: torch.Tensor) -> torch.Tensor:
        return self.table(ids).sum(1)


class Branching(Plain):
    """Does something else for longer texts: what a trace does not see."""

    def forward(self, ids: torch.Tensor, unread: torch.Tensor) -> torch.Tensor:
        return super().forward(ids, unread) * (2.0 if int(ids.shape[1]) > 5 else 1.0)


class NotANumber(Plain):
    """Divides by nothing."""

    def forward(self, ids: torch.Tensor, unread: torch.Tensor) -> torch.Tensor:
        return super().forward(ids, unread) * torch.log(-torch.ones(1))


def opened(module: torch.nn.Module, **more: object) -> Opened:
    axes = {0: "batch", 1: "sequence"}
    traced = Traced(
        module=module,
        example=(IDS, IDS),
        inputs=("input_ids", "unread"),
        outputs=("pooled",),
        dynamic={"input_ids": axes, "unread": axes, "pooled": {0: "batch"}},
        checks=((LONGER, LONGER), (IDS[:1], IDS[:1])),
    )
    return Opened(
        architecture="tiny", task=TaskKind.TEXT_EMBEDDING, processing=Processing(), traced=replace(traced, **more)
    )


def test_a_program_in_any_size_with_every_input(tmp_path):
    path = tmp_path / "model.onnx"
    assert export(opened(Plain()), path) <= 1e-6
    session = run_session(path)
    assert [node.name for node in session.get_inputs()] == ["input_ids", "unread"]
    assert session.run(None, {"input_ids": LONGER.numpy(), "unread": LONGER.numpy()})[0].shape == (2, 4)


@pytest.mark.parametrize("dynamo", [False, True])
def test_the_same_bytes_every_time_and_no_paths_in_them(tmp_path, dynamo):
    module = Plain()
    for name in ("a", "b"):
        export(opened(module, dynamo=dynamo), tmp_path / name)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    for told in (str(Path.cwd()), sys.prefix, "site-packages", __file__):
        assert told.encode() not in data
    model = onnx.load_from_string(data)
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_a_program_that_differs_from_torch_is_refused_with_the_figure(tmp_path):
    with pytest.raises(Refused, match=r"tracing: differs from torch by \d\.\d+e[+-]\d+ in pooled") as raised:
        export(opened(Branching()), tmp_path / "model.onnx")
    assert raised.value.kind is Refusal.UNPROCESSABLE


def test_a_program_that_gives_no_numbers_is_refused(tmp_path):
    with pytest.raises(Refused, match="not a number"):
        export(opened(NotANumber()), tmp_path / "model.onnx")


def test_a_model_too_large_for_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGEST", 100)
    with pytest.raises(Refused) as raised:
        export(opened(Plain()), tmp_path / "model.onnx")
    assert (raised.value.kind, raised.value.value) == (Refusal.TOO_LARGE, 32 * 4 * 4)


def test_a_ready_graph_is_taken_as_it_is(tmp_path):
    source = Opened(architecture="onnx", task=TaskKind.TENSOR, processing=Processing(), graph=b"whole")
    assert export(source, tmp_path / "model.onnx") == 0.0
    assert (tmp_path / "model.onnx").read_bytes() == b"whole"
