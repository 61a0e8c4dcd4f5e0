"""Decoders of three families as graphs with a cache: what they write is what transformers' `generate()` writes."""

import json
from functools import cache

import msgspec
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from cloud_core.importer.architectures.causal_lm import generate_greedily, open_causal_lm
from cloud_core.importer.architectures.decoder_folder import open_decoder
from cloud_core.importer.export import export
from cloud_core.importer.int8_per_token import quantize_per_token
from shared.protocol.errors import Refused
from tests.importing.decoders import CONTEXT, FAMILIES, LETTERS, Writer, decoder_folder

pytestmark = pytest.mark.slow

PROMPTS = ("今天天气", "a", "我们去公园吧，你他是的了在有", "你", "什么 abc 123，😀好", "0123456789" * 3)


class Exported:
    """A folder, opened, its program and what writes with it."""

    def __init__(self, folder, family):
        self.folder = decoder_folder(folder, family)
        self.opened = open_causal_lm(self.folder)
        self.program = folder / "model.onnx"
        export(self.opened, self.program)
        self.processing = self.opened.processing
        self.generation = self.processing.generation
        self.tokenizer = self.opened.files["tokenizer.json"]
        self.writer = Writer(self.program, self.tokenizer, self.processing, endless=True)

    @cache  # noqa: B019 - as long as the module's tests run
    def ids(self, prompt, tokens):
        """What `generate()` writes where nothing ends it."""
        made = Tokenizer.from_str(self.tokenizer.decode())
        ids = [*self.generation.starts, *made.encode(prompt, add_special_tokens=False).ids]
        endless = msgspec.structs.replace(self.generation, ends=())
        return generate_greedily(self.opened.traced.module.model, ids, endless, tokens)

    def generated(self, prompt, tokens):
        """The text of it."""
        return Tokenizer.from_str(self.tokenizer.decode()).decode(self.ids(prompt, tokens))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Models this small are slower on two.
    known = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(known)


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory):
    return Exported(tmp_path_factory.mktemp(request.param), request.param)


def test_a_text_is_the_one_generate_writes(exported):
    for prompt in PROMPTS:
        (text,) = exported.writer([prompt], max_tokens=24)
        assert (text.text, text.tokens, text.finish) == (exported.generated(prompt, 24), 24, "length")


def test_rows_padded_on_the_left_write_what_they_write_alone(exported):
    together = exported.writer(PROMPTS, max_tokens=24)
    assert [text.text for text in together] == [exported.generated(prompt, 24) for prompt in PROMPTS]


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.text(LETTERS, min_size=1, max_size=20), min_size=1, max_size=5), tokens=st.integers(1, 20))
def test_any_batch_writes_what_its_rows_write_alone(exported, prompts, tokens):
    alone = [exported.writer([prompt], max_tokens=tokens)[0].text for prompt in prompts]
    assert [text.text for text in exported.writer(prompts, max_tokens=tokens)] == alone


def test_the_whole_context_can_be_written(exported):
    (text,) = exported.writer(["今天"], max_tokens=CONTEXT - exported.writer(["今天"], max_tokens=1)[0].prompt_tokens)
    assert text.text == exported.generated("今天", text.tokens)
    with pytest.raises(Refused, match=f"the limit is {CONTEXT - 1} tokens"):
        exported.writer.task.prepare("今" * CONTEXT, {})


def test_the_manifest_says_what_the_cache_looks_like(exported):
    family = exported.opened.traced.module.model.config.model_type
    heads = {"gpt2": 4, "llama": 2, "qwen2": 1}[family]
    assert (exported.generation.layers, exported.generation.heads, exported.generation.head_size) == (2, heads, 8)
    assert (exported.generation.context, exported.processing.max_length) == (CONTEXT, CONTEXT)
    assert (exported.generation.starts, exported.generation.ends) == {
        "gpt2": ((2,), (3,)),
        "llama": ((0,), (1,)),
        "qwen2": ((), (258,)),
    }[family]
    assert exported.opened.architecture == f"{family} text generation (transformers)"
    shapes = {spec.name: spec.shape for spec in exported.writer.session.inputs}
    assert shapes["past_key_values.1.value"] == (-1, heads, -1, 8)
    assert {spec.name: spec.shape for spec in exported.writer.session.outputs}["logits"][1:2] == (1,)


def test_the_reference_ends_where_the_model_does_and_heeds_nothing_else(exported):
    prompt, endless = "今天天气", exported.ids("今天天气", 24)
    end = next(token for place, token in enumerate(endless) if place > 3 and token not in endless[:place])
    settings = exported.folder / "generation_config.json"
    known = settings.read_text()
    asked = {"repetition_penalty": 9.0, "do_sample": True, "temperature": 2.0, "max_length": 5}
    settings.write_text(json.dumps({"eos_token_id": [end], **asked}))
    try:
        opened = open_causal_lm(exported.folder)
    finally:
        settings.write_text(known)
    assert opened.processing.generation.ends == (end,)
    (text,) = Writer(exported.program, exported.tokenizer, opened.processing)([prompt])
    assert (text.tokens, text.finish) == (endless.index(end), "stop")
    assert opened.reference([prompt, "今" * 4 * CONTEXT]) == [{"text": text.text}, None]


def test_int8_per_token_writes_the_same_alone_and_in_a_batch(exported, tmp_path):
    model = onnx.load(exported.program)
    quantize_per_token(model, at_least=512)
    assert any(node.op_type == "MatMulIntegerToFloat" for node in model.graph.node)
    onnx.save(model, tmp_path / "int8.onnx")
    writer = Writer(tmp_path / "int8.onnx", exported.tokenizer, exported.processing, endless=True)
    alone = [writer([prompt], max_tokens=24)[0].text for prompt in PROMPTS]
    assert [text.text for text in writer(PROMPTS, max_tokens=24)] == alone


def test_a_matrix_tied_to_the_embeddings_is_stored_once(exported):
    table = exported.opened.traced.module.model.get_input_embeddings().weight
    stored = [tensor for tensor in onnx.load(exported.program).graph.initializer
              if tuple(tensor.dims) in (tuple(table.shape), tuple(table.shape)[::-1])]  # fmt: skip
    assert len(stored) == (1 if exported.opened.traced.module.model.config.tie_word_embeddings else 2)


def test_a_window_that_slides_bounds_the_context(tmp_path):
    folder = decoder_folder(
        tmp_path, "qwen2", use_sliding_window=True, sliding_window=40, max_window_layers=1, num_hidden_layers=2
    )
    generation = open_causal_lm(folder).processing.generation
    assert generation is not None
    assert generation.context == 40


def test_weights_in_a_pickle_are_read_and_code_in_one_is_not(tmp_path):
    folder = decoder_folder(tmp_path, "gpt2")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    model, _ = open_decoder(folder)
    assert torch.equal(model.transformer.wte.weight, weights["transformer.wte.weight"])

    class Code:
        def __reduce__(self):
            return (exec, ("raise AssertionError('ran')",))

    torch.save(weights | {"transformer.wte.weight": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(Refused, match="cannot open the folder"):
        open_decoder(folder)


REFUSED = [
    ("gpt2", {"model_type": "gptj"}, "config.json.model_type"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "config.json.scale_attn_by_inverse_layer_idx"),
    ("gpt2", {"add_cross_attention": True}, "config.json.add_cross_attention"),
    ("gpt2", {"n_positions": 4}, "source"),
    ("gpt2", {"n_layer": 3}, "config.json"),
    ("gpt2", {"n_layer": 1}, "config.json"),
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "config.json.rope_scaling"),
    ("qwen2", {"quantization_config": {"quant_method": "bitsandbytes"}}, "config.json.quantization_config"),
]


@pytest.mark.parametrize(("family", "changed", "field"), REFUSED)
def test_what_a_graph_cannot_follow_is_refused_by_name(tmp_path, family, changed, field):
    folder = decoder_folder(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(Refused) as caught:
        open_causal_lm(folder)
    assert caught.value.field == field


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path):
    folder = decoder_folder(tmp_path, "gpt2")
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("\n龙")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Refused, match="more tokens than the model"):
        open_causal_lm(folder)


def test_a_context_without_room_and_a_folder_without_vocabulary_are_refused(tmp_path):
    with pytest.raises(Refused, match="no room"):
        open_causal_lm(decoder_folder(tmp_path / "short", "llama", max_position_embeddings=4))
    folder = decoder_folder(tmp_path / "mute", "llama")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Refused, match="cannot open the folder"):
        open_causal_lm(folder)


def test_a_missing_weight_is_named(tmp_path):
    folder = decoder_folder(tmp_path, "gpt2")
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match=r"1 weights are not in the folder.*h\.1\.mlp\.c_fc\.weight"):
        open_causal_lm(folder)


def test_notes_go_onto_the_card(exported):
    (exported.folder / "notes.md").write_text("Trained on nothing.", encoding="utf-8")
    assert exported.opened.notes == ""
    assert open_causal_lm(exported.folder).notes == "Trained on nothing."
