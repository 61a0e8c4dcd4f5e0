"""Small decoders' folders in Hugging Face form, seeded random weights, and what a program of one writes through the engine's task."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from shared.bundle.manifest import Processing
from shared.serving.answer import Text
from shared.serving.lanes.sinks import joined
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.tasks.text_generation import TextGeneration

LETTERS = "今天气真好我们去公园吧你他是的了在有和就都要会可以这那吃什么，。！？abcdefgh0123456789 "
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTEXT = 64
FAMILIES = ("gpt2", "llama", "qwen2")


def decoder_folder(path: Path, family: str, *, seed: int = 0, **config) -> Path:
    """A folder as transformers saves it: GPT-2 with BERT's vocabulary (as Chinese ones have), Llama, Qwen2 of bytes."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = {"gpt2": _bert, "llama": _letters, "qwen2": _bytes}[family](path)
    size = len(tokenizer.get_vocab())
    torch.manual_seed(seed)
    # Spread wide, so that greedy texts wander and no two scores are near each other.
    common = {"vocab_size": size, "initializer_range": 0.4, "tie_word_embeddings": family != "llama"}
    grouped = {
        "max_position_embeddings": CONTEXT, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    match family:
        case "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(**common | {"n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 4} | config)
            )
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**common | grouped | {"eos_token_id": 1} | config))
        case _:
            model = Qwen2ForCausalLM(Qwen2Config(**common | grouped | {"num_key_value_heads": 1} | config))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _bert(path: Path) -> BertTokenizerFast:
    (path / "vocab.txt").write_text("\n".join((*SPECIAL, *dict.fromkeys(LETTERS.replace(" ", "")))), encoding="utf-8")
    return BertTokenizerFast(str(path / "vocab.txt"))


def _letters(path: Path) -> PreTrainedTokenizerFast:
    ids = {token: i for i, token in enumerate(("<s>", "</s>", "<unk>", *dict.fromkeys(LETTERS)))}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _bytes(path: Path) -> PreTrainedTokenizerFast:
    table = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(table | {"ä½": 256, "ä½ł": 257}, [("ä", "½"), ("ä½", "ł")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")


class Writer:
    """A program with its tokenizer, asked as a worker asks it."""

    def __init__(self, program: Path, tokenizer: bytes, processing: Processing, *, endless: bool = False) -> None:
        """`endless`: no token ends a text."""
        generation = processing.generation
        assert generation is not None
        if endless:
            processing = Processing(
                tokenizer=processing.tokenizer,
                max_length=processing.max_length,
                generation=type(generation)(
                    layers=generation.layers, heads=generation.heads, head_size=generation.head_size,
                    context=generation.context, starts=generation.starts,
                ),
            )  # fmt: skip
        self.task = TextGeneration(Tokenizer.from_str(tokenizer.decode()), processing)
        self.session = OnnxSession(program, threads=1)
        self.session.load()

    def __call__(self, prompts: Sequence[str], **parameters) -> list[Text]:
        """The whole texts of one batch."""
        batch = [self.task.prepare(prompt, parameters) for prompt in prompts]
        whole: list[Text | None] = [None] * len(batch)
        for step in self.task.steps(self.session.run, batch):
            for i, piece in enumerate(step):
                if piece is not None:
                    known = whole[i]
                    whole[i] = piece if known is None else joined(known, piece)
        return [text for text in whole if text is not None]
