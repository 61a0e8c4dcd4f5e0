"""Tiny real bundles: ONNX programs of a few hundred bytes and a small tokenizer."""

import asyncio
import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import structlog
from onnx import TensorProto, helper, numpy_helper
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from shared.bundle.manifest import Chunk, File, Manifest, Processing, TaskKind, Variant
from shared.io.clock import SystemClock
from shared.serving.engine import Engine
from shared.serving.metrics import EngineMetrics

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, "好", "坏", "王", "明", "去", "北", "京", "a", "##a", "b", "##b", "。"]
IDS = {word: i for i, word in enumerate(WORDS)}
TAGS = ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"]
MAX_LENGTH = 16
TENANT = "default"


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordPiece(IDS, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", IDS["[CLS]"]), ("[SEP]", IDS["[SEP]"])]
    )
    made.add_special_tokens(SPECIAL)
    return made


def per_token(table: np.ndarray, output: str, *, pool: bool, path: Path) -> None:
    """A program whose output is the row of `table` per token id; pooled over real tokens where asked."""
    ids, mask = (
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in ("input_ids", "attention_mask")
    )
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])]
    shape: list[object] = ["batch", "seq", table.shape[1]]
    if pool:
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["m", "two"], ["m3"]),
            helper.make_node("Mul", ["rows", "m3"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "one"], [output], keepdims=0),
        ]
        shape = ["batch", table.shape[1]]
    else:
        nodes.append(helper.make_node("Identity", ["rows"], [output]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [ids, mask],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(table.astype(np.float32), "table"),
            numpy_helper.from_array(np.array([2]), "two"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    save(graph, path)


def save(graph: onnx.GraphProto, path: Path) -> None:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def adder(path: Path) -> Path:
    """y = x + x on float32 [-1, 3]; z = s, text."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "adder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    save(graph, path)
    return path


def echo(path: Path) -> Path:
    """Text in, the same text out."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["s"], ["t"])],
        "echo",
        [helper.make_tensor_value_info("s", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("t", TensorProto.STRING, ["n"])],
    )
    save(graph, path)
    return path


def sentiment_table() -> np.ndarray:
    table = np.zeros((len(WORDS), 2))
    table[IDS["好"]] = [-2, 2]
    table[IDS["坏"]] = [2, -2]
    return table


def tag_table() -> np.ndarray:
    table = np.zeros((len(WORDS), len(TAGS)))
    table[:, 0] = 4
    for word, tag in {"王": "B-PER", "明": "E-PER", "北": "B-LOC", "京": "E-LOC"}.items():
        table[IDS[word], TAGS.index(tag)] = 9
    return table


def crf_file(path: Path) -> None:
    """Illegal transitions are impossible; legal ones free."""
    k = len(TAGS)
    transitions = np.full((k, k), -100.0)
    for i, one in enumerate(TAGS):
        for j, two in enumerate(TAGS):
            opened = one[0] in "BI"
            inside = two[0] in "IE"
            if opened == inside and (not opened or one[2:] == two[2:]):
                transitions[i, j] = 0.0
    start = np.array([-100.0 if tag[0] in "IE" else 0.0 for tag in TAGS])
    end = np.array([-100.0 if tag[0] in "BI" else 0.0 for tag in TAGS])
    np.savez(path, start_transitions=start, transitions=transitions, end_transitions=end)


def bundle(
    folder: Path, name: str, task: TaskKind, *, version: str = "1.0.0", golden: list[dict] | None = None, **processing
) -> Manifest:
    """A complete bundle of `task` in `folder`, and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "model.onnx"
    labels: tuple[str, ...] = ()
    match task:
        case TaskKind.TEXT_CLASSIFICATION:
            per_token(sentiment_table(), "logits", pool=True, path=program)
            labels = ("负面", "正面")
        case TaskKind.TOKEN_CLASSIFICATION:
            per_token(tag_table(), "emissions", pool=False, path=program)
            crf_file(folder / "crf.npz")
            labels = tuple(TAGS)
            processing = {"crf": "crf.npz", "char_level": True} | processing
        case TaskKind.TEXT_EMBEDDING:
            per_token(np.random.default_rng(1).normal(size=(len(WORDS), 4)), "states", pool=False, path=program)
            processing = {"pooling": "cls"} | processing
        case _:
            adder(program)
    if task is not TaskKind.TENSOR:
        tokenizer().save(str(folder / "tokenizer.json"))
        processing = {"tokenizer": "tokenizer.json", "max_length": MAX_LENGTH} | processing
    if golden is not None:
        (folder / "golden.json").write_text(json.dumps({"items": golden, "tolerances": {"cpu": 1e-4}}))
    return Manifest(
        name=name,
        version=version,
        task=task,
        variants=(Variant(name="cpu", runtime="onnx", precision="fp32", files=("model.onnx",)),),
        files=files_of(folder),
        labels=labels,
        processing=Processing(**processing),
        golden="golden.json" if golden is not None else None,
    )


def files_of(folder: Path) -> tuple[File, ...]:
    """The entry of every file in `folder`, one chunk each."""
    files = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        files.append(File(path=path.name, size=len(data), sha256=digest, chunks=(Chunk(digest, len(data)),)))
    return tuple(files)


def log_sink():
    """A logger and the list of what was logged."""
    lines: list[dict] = []

    def keep(_logger, level, event):
        lines.append({"level": level, **event})
        raise structlog.DropEvent

    return structlog.wrap_logger(
        None,
        processors=[structlog.contextvars.merge_contextvars, keep],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    ), lines


@contextlib.asynccontextmanager
async def engine(**options):
    """An engine that is closed at the end."""
    log, lines = log_sink()
    registry = CollectorRegistry()
    made = Engine(**({"clock": SystemClock(), "log": log, "metrics": EngineMetrics(registry)} | options))
    made.lines, made.registry = lines, registry
    try:
        yield made
    finally:
        await made.close()


async def until(condition, seconds: float = 10.0):
    """Let the loop run until `condition()` holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)
