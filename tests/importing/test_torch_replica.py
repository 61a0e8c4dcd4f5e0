"""A torch program in a replica's engine: the same answers as the ONNX one, and nothing in the file is ever run but operators."""

import asyncio
import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cloud_core.importer.forms import FP32, Making, forms
from cloud_core.replicas.runtimes import TORCH, offers_here, open_session
from cloud_core.replicas.torch_program import TorchProgram
from shared.bundle.manifest import Manifest
from shared.protocol.errors import Corrupt, Refused, Transient
from shared.serving.answer import Request
from tests.importing import folders
from tests.importing.bundles import Bundle
from tests.shared.serving.bundles import TENANT, engine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]
TEXTS = ("这家面馆的汤头很鲜", "不好吃", "The room was clean, but the breakfast was cold." * 4)


@pytest.fixture(scope="module")
def gte(bundle) -> Bundle:
    return bundle("gte-normalized", lambda folder: folders.gte(folder, normalize=True))


@pytest.fixture(scope="module")
def manifest(gte: Bundle) -> Manifest:
    (variant,) = forms("torch", Making(gte.opened, gte.manifest, gte.folder, list(TEXTS)))
    return msgspec.structs.replace(gte.manifest, variants=(*gte.manifest.variants, variant))


def test_a_replica_answers_with_torch_as_with_onnx(gte: Bundle, manifest: Manifest) -> None:
    assert TORCH in offers_here()

    async def answers(variant: str) -> list[np.ndarray]:
        async with engine(sessions=open_session) as made:
            await made.load(TENANT, manifest, "d" * 64, gte.folder, variant)
            made.activate(TENANT, {"model": "1.0.0"})
            response = await made.answer(Request(id="1", tenant=TENANT, model="model", texts=TEXTS))
            assert response.variant == variant
            return [result.embedding for result in response.results]

    wanted, found = (asyncio.run(answers(variant)) for variant in (FP32, "torch"))
    assert max(float(np.abs(a - b).max()) for a, b in zip(wanted, found, strict=True)) < 1e-5


@pytest.fixture
def program(gte: Bundle, manifest: Manifest, tmp_path: Path) -> Path:
    for name in manifest.variant("torch").files:
        (tmp_path / name).write_bytes((gte.folder / name).read_bytes())
    return tmp_path / "model.pt2"


def feeds(rows: int, tokens: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 100, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def test_any_number_of_rows_and_tokens(program: Path) -> None:
    session = TorchProgram(program, threads=1, device="cpu")
    session.load()
    assert [spec.name for spec in session.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    for rows, tokens in ((1, 1), (1, 2), (2, 1), (3, 17), (8, 128)):
        (values,) = session.run(feeds(rows, tokens)).values()
        assert values.shape[0] == rows
        assert np.isfinite(values).all()


def test_wrong_inputs_are_the_callers_and_a_closed_session_is_nobodys(program: Path) -> None:
    session = TorchProgram(program, threads=1, device="cpu")
    with pytest.raises(Transient):
        session.run(feeds(1, 2))
    session.load()
    with pytest.raises(Refused):
        session.run({"input_ids": feeds(1, 2)["input_ids"]})
    session.interrupt()
    with pytest.raises(Transient):
        session.run(feeds(1, 2))
    session.resume()
    other = session.sibling()
    session.close()
    with pytest.raises(Transient):
        session.run(feeds(1, 2))
    assert len(next(iter(other.run(feeds(1, 2)).values()))) == 1


def rewritten(program: Path, change) -> None:
    """The archive with `change(name, data)` in place of each member's data."""
    with zipfile.ZipFile(program) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(program, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(name, change(name, data))


def test_an_archive_that_calls_other_things_than_operators_is_never_read_by_torch(
    program: Path, tmp_path: Path
) -> None:
    witness = tmp_path / "ran"

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        document = json.loads(data)
        node = document["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.os.system"
        node["inputs"] = [{"name": "command", "arg": {"as_string": f"touch {witness}"}, "kind": 1}]
        return json.dumps(document).encode()

    rewritten(program, change)
    with pytest.raises(Refused):
        TorchProgram(program, threads=1, device="cpu").load()
    assert not witness.exists()


def test_a_torn_archive_is_no_program(program: Path) -> None:
    program.write_bytes(program.read_bytes()[:-100])
    with pytest.raises((Refused, Corrupt)):
        TorchProgram(program, threads=1, device="cpu").load()
