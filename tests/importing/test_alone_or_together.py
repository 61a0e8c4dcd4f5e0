"""The same answer alone or in a batch: torch programs of every task in FP32, and in bf16 where answers are numbers.

Where they are choices, spans or texts, weights drawn at random leave ties that bf16 decides either way.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_core.importer.forms import Making, forms
from cloud_core.replicas.torch_program import TorchProgram
from shared.bundle.manifest import TaskKind
from shared.io.processor import COMPUTE_BF16, processor
from shared.serving.answer import Embedding, Entities, Label, Relations, Text
from shared.serving.tasks.choose import task_for
from shared.serving.trial.model import Model
from tests.importing import folders
from tests.importing.decoders import decoder_folder
from tests.importing.siamese import siamese_uie
from tests.shared.serving.agreeing import TEXTS, disagreement

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]
MAKERS: dict[TaskKind, Callable[[Path], Path]] = {
    TaskKind.TEXT_CLASSIFICATION: folders.sentiment,
    TaskKind.TOKEN_CLASSIFICATION: folders.raner,
    TaskKind.TEXT_EMBEDDING: lambda folder: folders.gte(folder, normalize=True),
    TaskKind.RELATION_EXTRACTION: siamese_uie,
    TaskKind.TEXT_GENERATION: lambda folder: decoder_folder(folder, "llama"),
}
NUMBERS = (TaskKind.TEXT_CLASSIFICATION, TaskKind.TEXT_EMBEDDING)
TOLERANCES = {"": 1e-5, "bf16": 0.02}
PARAMETERS = {
    TaskKind.TEXT_GENERATION: {"max_tokens": 8, "temperature": 0},
    TaskKind.RELATION_EXTRACTION: {"schema": {"人物": {"地点": None}}},
}
BATCHES = st.lists(TEXTS, min_size=2, max_size=5).flatmap(
    lambda texts: st.tuples(st.just(texts), st.integers(0, len(texts) - 1))
)


@pytest.fixture(
    scope="module",
    params=[*((kind, "") for kind in MAKERS), *((kind, "bf16") for kind in NUMBERS)],
    ids=lambda each: "-".join(filter(None, each)),
)
def served(request, bundle):
    kind, precision = request.param
    if precision == "bf16" and not COMPUTE_BF16 & set(processor().features):
        pytest.skip("this processor does not compute in bf16")
    made = bundle(f"together-{kind}", MAKERS[kind])
    path = made.folder / "model.pt2"
    if not path.exists():
        tuple(forms("torch", Making(made.opened, made.manifest, made.folder, ["好"])))
    session = TorchProgram(path, threads=1, device="cpu", precision=precision)
    session.load()
    return kind, Model(task_for(made.manifest, made.folder), session), TOLERANCES[precision]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batch=BATCHES)
def test_batch_mates_change_no_answer(served, batch):
    kind, model, tolerance = served
    texts, place = batch
    parameters = PARAMETERS.get(kind, {})
    (alone,) = model.answers([texts[place]], parameters)
    assert isinstance(alone, Label | Entities | Embedding | Relations | Text)
    assert disagreement(alone, model.answers(texts, parameters)[place], tolerance) == ""
