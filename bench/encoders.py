"""The encoders that benchmarks serve, made from a seed and kept in `bench/.cache`: a bundle, and plain ONNX files for peers.

`small` is TinyBERT's shape, `base` BERT-base-Chinese's. fp32 programs are held against a numpy reimplementation when they are made;
the int8 ones are made by the importer's own per-token quantizer in its fine form, the form `cpu-int8` ships in, and held against
fp32. The folder of a cached encoder is named by the sources it was made with, so a change of the quantizer makes it anew.
`python -m bench.encoders [NAME ...]` makes them ahead of time (`base` takes half a minute and 2.5 GB).

Texts are characters that are one token each, so that a text of an exact number of tokens is that many characters less two.
"""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx
import onnxruntime
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from bench import encoder_graph, encoder_weights
from bench.encoder_graph import graph_of
from bench.encoder_weights import SHAPES, Ids, Shape, logits, weights
from cloud_core.importer import folding, int8_activations, int8_per_token, int8_weights, smoothing
from cloud_core.importer.folding import fold_constants
from cloud_core.importer.forms import FILES, FP32, INT8
from cloud_core.importer.int8_per_token import quantize_per_token, quantized_activations
from cloud_core.importer.smoothing import activations_of
from cloud_core.models.bundling import TEXT_INPUT, described, outputs_of
from shared.bundle.manifest import MANIFEST_FILE, Manifest, Processing, TaskKind, Variant, canonical

CACHE = Path(__file__).parent / ".cache"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
FIRST, LAST = 0x4E00, 0x9FA5
"""The block of Chinese characters, each a token of its own."""
LABELS = ("negative", "positive")
PARITY = 1e-4
INT8_PARITY = 0.1
_TOKENIZER = "tokenizer.json"
_SAMPLED_TEXTS, _SAMPLED_TOKENS = 18, 32
_SOURCES = (encoder_graph, encoder_weights, folding, int8_activations, int8_per_token, int8_weights, smoothing)


class Encoder(NamedTuple):
    """`bundle`: a text-classification bundle, both variants in it. `fp32`, `int8`: the same programs as plain files.

    Served as plain files they are tensor models under the files' stems (`small-fp32`, `small-int8`); the bundle's model is `small`.
    """

    shape: Shape
    bundle: Path
    fp32: Path
    int8: Path


def encoder(name: str, *, cache: Path = CACHE) -> Encoder:
    """The encoder `small` or `base`, made where it is not in `cache` yet."""
    shape = SHAPES[name]
    folder = cache / f"{name}-{_digest(shape)}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            _make(shape, staged)
            staged.rename(folder)
        except OSError:
            # Another process was first with the same encoder.
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return _at(shape, folder)


def texts(count: int, *, tokens: int, seed: int = 0) -> list[str]:
    """Random texts of exactly `tokens` tokens each, special ones included."""
    drawn = np.random.default_rng(seed).integers(FIRST, LAST + 1, (count, tokens - 2))
    return ["".join(map(chr, row)) for row in drawn.tolist()]


def ids(text: str) -> list[int]:
    """What the bundle's tokenizer makes of a text of `texts`."""
    return [CLS, *(ord(character) - FIRST + len(SPECIAL) for character in text), SEP]


def feeds(rows: Sequence[Sequence[int]]) -> dict[str, Ids]:
    """Inputs of the program for rows of ids, padded to the longest."""
    longest = max(map(len, rows))
    padded = np.array([[*row, *[0] * (longest - len(row))] for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int64)
    return {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}


def _at(shape: Shape, folder: Path) -> Encoder:
    return Encoder(shape, folder / "bundle", folder / f"{shape.name}-fp32.onnx", folder / f"{shape.name}-int8.onnx")


def _digest(shape: Shape) -> str:
    files = [Path(__file__), *(Path(str(module.__file__)) for module in _SOURCES)]
    return hashlib.sha256(repr(shape).encode() + b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _make(shape: Shape, folder: Path) -> None:
    made = _at(shape, folder)
    known = weights(shape)
    model = graph_of(shape, known)
    onnx.checker.check_model(model, full_check=True)
    _write(model, made.fp32)
    wanted_of = feeds([ids(text) for length in (9, 5) for text in texts(1, tokens=length)])
    wanted = logits(shape, known, wanted_of["input_ids"], wanted_of["attention_mask"])
    _check(made.fp32, wanted_of, wanted, PARITY)
    fold_constants(model)
    samples = [feeds([ids(text)]) for text in texts(_SAMPLED_TEXTS, tokens=_SAMPLED_TOKENS)]
    quantize_per_token(model, seen=activations_of(model, quantized_activations(model), samples))
    _write(model, made.int8)
    _check(made.int8, wanted_of, wanted, INT8_PARITY)
    _bundle(made)


def _check(program: Path, given: dict[str, Ids], wanted: encoder_weights.Array, most: float) -> None:
    """Raises ValueError where a program strays from what the encoder is."""
    (found,) = onnxruntime.InferenceSession(str(program)).run(["logits"], given)
    difference = float(np.abs(found - wanted).max())
    if not difference <= most:
        raise ValueError(f"{program.name} differs from the reference by {difference:.2e}, allowed is {most:g}")


def _bundle(made: Encoder) -> None:
    made.bundle.mkdir()
    # Copies: a bundle's files may have no other name.
    shutil.copyfile(made.fp32, made.bundle / FILES[FP32])
    shutil.copyfile(made.int8, made.bundle / FILES[INT8])
    tokenizer = _tokenizer(made.shape)
    for text in texts(_SAMPLED_TEXTS, tokens=_SAMPLED_TOKENS):
        if tokenizer.encode(text).ids != ids(text):
            raise ValueError("the tokenizer does not give one token for each character")
    tokenizer.save(str(made.bundle / _TOKENIZER))
    manifest = Manifest(
        name=made.shape.name,
        version="1.0.0",
        task=TaskKind.TEXT_CLASSIFICATION,
        variants=tuple(
            Variant(name=name, runtime="onnx", precision=precision, files=(FILES[name],))
            for name, precision in ((FP32, "fp32"), (INT8, "int8"))
        ),
        files=tuple(described(made.bundle / name) for name in (FILES[FP32], FILES[INT8], _TOKENIZER)),
        inputs=TEXT_INPUT,
        outputs=outputs_of(TaskKind.TEXT_CLASSIFICATION, labels=LABELS, dimension=None),
        labels=LABELS,
        processing=Processing(tokenizer=_TOKENIZER, max_length=made.shape.positions, lowercase=True),
        source={"kind": "random", "said": "bench/encoders.py"},
    )
    (made.bundle / MANIFEST_FILE).write_bytes(canonical(manifest))


def _tokenizer(shape: Shape) -> Tokenizer:
    words = [*SPECIAL, *map(chr, range(FIRST, LAST + 1)), *map(chr, range(0x21, 0x7F))]
    words += [f"[unused{i}]" for i in range(shape.vocabulary - len(words))]
    known = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    made.add_special_tokens(list(SPECIAL))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return made


def _write(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))


def main(names: Iterable[str]) -> int:
    """Make the encoders named, or all."""
    for name in list(names) or SHAPES:
        made = encoder(name)
        size = made.int8.stat().st_size
        print(f"{name}: {made.bundle} (int8 {size / 1e6:.1f} MB)")
        print(msgspec.json.encode(made.shape._asdict()).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
