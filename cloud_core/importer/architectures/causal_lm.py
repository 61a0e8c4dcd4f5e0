"""Decoder-only text generation: a Hugging Face folder of GPT-2, Llama or Qwen2 as one graph with a cache of keys and values.

The graph reads new tokens and what was read before them; rows may be padded on the left, and the first step has no past. It
gives scores for the last position only, so that a long prompt costs no row of the whole vocabulary per token.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from cloud_core.importer.architectures.decoder_folder import open_decoder
from cloud_core.importer.opened import Expect, Opened, Traced
from cloud_core.importer.tokenizer import FILE, TokenizerFile, tokenizer_file
from shared.bundle.manifest import Generation, Processing, TaskKind, TensorSpec
from shared.protocol.errors import Refusal, Refused
from shared.serving.tasks.generation_parameters import DEFAULT_MAX_TOKENS

NOTES = "notes.md"
MASKED = -30_000.0
"""Added to the score of a position that must not be seen: its weight is then exactly 0, in fp16 as well."""
_CHECKED = ((1, 0, 1), (1, 0, 9), (3, 0, 7), (1, 12, 1), (4, 9, 1), (2, 5, 4))
"""Rows, past and new tokens of the runs that are held against torch."""
_LEAST_CONTEXT = 8


class CausalLm(torch.nn.Module):
    """A transformers decoder as a function of arrays.

    `forward(input_ids, attention_mask, position_ids, key 0, value 0, key 1, …)` gives logits float32 [rows, 1, vocabulary] of
    the last position, then the grown keys and values. Shapes are those of `shared.serving.tasks.kv_cache`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """One step."""
        cache = DynamicCache()
        for key, value in zip(past[::2], past[1::2], strict=True):
            cache.layers.append(_filled(key, value))
        states = self.model.base_model(
            input_ids=input_ids,
            # Of four dimensions, so that transformers takes it as it is: its own masking code cannot be traced.
            attention_mask=visible(attention_mask, past[0].shape[2], input_ids.shape[1]),
            position_ids=position_ids,
            cache_position=position_ids[0],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        head = self.model.get_output_embeddings()
        bias = torch.zeros(1) if head.bias is None else head.bias
        # As a Gemm that reads the matrix transposed: one that is tied to the embeddings is then stored once.
        logits = torch.addmm(bias, states, head.weight.t()).unsqueeze(1)
        return (logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))


def visible(attention_mask: Tensor, past: int | Tensor, new: int | Tensor) -> Tensor:
    """What is added to attention's scores, float32 [rows, 1, new, past + new]: nothing of a later position, nothing padded."""
    read, reading = torch.arange(past + new), torch.arange(new) + past
    allowed = (read[None, :] <= reading[:, None])[None, None] & (attention_mask[:, None, None, :] > 0)
    return (1.0 - allowed.to(torch.float32)) * MASKED


def open_causal_lm(folder: Path) -> Opened:
    """A folder with `config.json`, weights and a tokenizer; `notes.md`, where there is one, goes onto the card.

    Raises:
        Refused: not a decoder of a known family, or settings, weights or a vocabulary that do not fit; names them.

    """
    model, tokenizer = open_decoder(folder)
    file = tokenizer_file(tokenizer)
    generation = _generation(model, tokenizer, file)
    notes = folder / NOTES
    return Opened(
        architecture=f"{model.config.model_type} text generation (transformers)",
        task=TaskKind.TEXT_GENERATION,
        processing=Processing(
            tokenizer=FILE,
            max_length=generation.context,
            lowercase=file.lowercase,
            nfc=file.nfc,
            generation=generation,
        ),
        inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
        outputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
        traced=_traced(model, generation),
        reference=lambda texts: [_answer(model, file, generation, text) for text in texts],
        files={FILE: file.data},
        notes=notes.read_text(encoding="utf-8") if notes.is_file() else "",
    )


def _filled(key: Tensor, value: Tensor) -> DynamicLayer:
    layer = DynamicLayer()
    layer.dtype, layer.device = key.dtype, key.device
    layer.keys, layer.values = key, value
    # Left to itself it would begin with an empty tensor of one dimension, which no graph can join with four.
    layer.is_initialized = True
    return layer


def _generation(model: Any, tokenizer: Any, file: TokenizerFile) -> Generation:
    config = model.config
    if file.tokens > config.vocab_size:
        raise Refused(
            "the vocabulary has more tokens than the model",
            kind=Refusal.UNPROCESSABLE,
            field=FILE,
            value=file.tokens,
            allowed=f"at most {config.vocab_size}",
        )
    # Layers with a sliding window see all there is as long as the context is no longer than the window.
    windows = [config.sliding_window] if "sliding_attention" in (getattr(config, "layer_types", None) or ()) else []
    context = min(map(int, (config.max_position_embeddings, *windows)))
    if context < _LEAST_CONTEXT:
        raise Refused(
            "no room for a prompt and an answer",
            kind=Refusal.UNPROCESSABLE,
            field="config.json.max_position_embeddings",
            value=context,
            allowed=f"{_LEAST_CONTEXT} or more",
        )
    heads = int(config.num_attention_heads)
    return Generation(
        layers=int(config.num_hidden_layers),
        heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        context=context,
        ends=_ends(model, tokenizer),
        starts=_starts(file),
    )


def _ends(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a text, as the model's own settings say; BERT's vocabulary has a separator for it."""
    known = (
        model.generation_config.eos_token_id,
        model.config.eos_token_id,
        tokenizer.eos_token_id,
        tokenizer.sep_token_id,
    )
    for said in known:
        ids = said if isinstance(said, list | tuple) else [said]
        # GPT-2's default lies outside of smaller vocabularies.
        found = tuple(int(end) for end in ids if end is not None and 0 <= end < model.config.vocab_size)
        if found:
            return found
    return ()


def _starts(file: TokenizerFile) -> tuple[int, ...]:
    """What the tokenizer puts before a text. What it puts behind is left out: a prompt is not at its end."""
    encoded = Tokenizer.from_str(file.data.decode()).encode("1")
    added = takewhile(lambda pair: pair[1], zip(encoded.ids, encoded.special_tokens_mask, strict=True))
    return tuple(token for token, _ in added)


def _traced(model: Any, generation: Generation) -> Traced:
    names = [f"{i}.{kind}" for i in range(generation.layers) for kind in ("key", "value")]
    past, present = [f"past_key_values.{name}" for name in names], [f"present.{name}" for name in names]
    dynamic: dict[str, dict[int, str]] = {
        "input_ids": {0: "rows", 1: "new"},
        "attention_mask": {0: "rows", 1: "total"},
        "position_ids": {0: "rows", 1: "new"},
        "logits": {0: "rows"},
    }
    dynamic |= {name: {0: "rows", 2: "past"} for name in past} | {name: {0: "rows", 2: "total"} for name in present}
    inputs = _examples(generation, int(model.config.vocab_size))
    return Traced(
        module=CausalLm(model).eval(),
        example=next(inputs),
        inputs=("input_ids", "attention_mask", "position_ids", *past),
        outputs=("logits", *present),
        dynamic=dynamic,
        checks=tuple(inputs),
    )


def _examples(generation: Generation, vocabulary: int) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of several sizes, every row but the first padded; the first are those to trace with."""
    random = torch.Generator().manual_seed(0)
    for rows, past, new in ((2, 3, 2), *_CHECKED):
        if past + new > generation.context:
            continue
        shape = (rows, generation.heads, past, generation.head_size)
        cache = [torch.randn(shape, generator=random) for _ in range(2 * generation.layers)]
        mask = torch.ones((rows, past + new), dtype=torch.long)
        for row in range(1, rows):
            mask[row, : min(row, past + new - 1)] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, past:]
        ids = torch.randint(vocabulary, (rows, new), generator=random)
        yield ids, mask, positions, *cache


def _answer(model: Any, file: TokenizerFile, generation: Generation, text: str) -> Expect:
    """What `generate()` writes after a prompt when it takes the likeliest token each time; None for one too long."""
    tokenizer = Tokenizer.from_str(file.data.decode())
    ids = [*generation.starts, *tokenizer.encode(text, add_special_tokens=False).ids]
    if not 0 < len(ids) < generation.context:
        return None
    written = generate_greedily(model, ids, generation, min(DEFAULT_MAX_TOKENS, generation.context - len(ids)))
    shown = [token for token in written if token not in generation.ends]
    return {"text": tokenizer.decode(shown, skip_special_tokens=True)}


def generate_greedily(model: Any, ids: Sequence[int], generation: Generation, tokens: int) -> list[int]:
    """Up to `tokens` tokens after `ids` by transformers' own loop, without what a folder may ask for beside (penalties, chance)."""
    prompt = torch.tensor([list(ids)])
    # Left open, the end would be taken from the model's own settings; nothing has the number behind the last token's.
    ends = list(generation.ends) or [int(model.config.vocab_size)]
    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=0)
    with torch.no_grad():
        found = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), generation_config=settings, use_model_defaults=False
        )
    return [int(token) for token in found[0, len(ids) :]]
