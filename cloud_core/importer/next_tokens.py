"""How often two decoders take the same next token, both led along the text that the first one writes.

Texts written freely part for good at the first token that differs, and then say nothing about the rest.
"""

from collections.abc import Sequence

from cloud_core.importer.answers import Model
from shared.bundle.manifest import Generation
from shared.serving.tasks.kv_cache import KvCache

STEPS = 32
"""Tokens that are written after each prompt, where the context has room for them."""


def next_token_agreement(generation: Generation, items: Sequence[object], wanted: Model, found: Model) -> float:
    """The share of next tokens that `found` and `wanted` agree on, over all prompts and `STEPS` tokens after each."""
    same = count = 0
    for item in items:
        prompt = wanted.task.prepare(item, {"truncate": True}).data.ids
        leader, led = KvCache(generation, [prompt]), KvCache(generation, [prompt])
        for step in range(min(STEPS, generation.context - len(prompt))):
            token = int(leader.advance(wanted.run)[0].argmax())
            same += token == int(led.advance(found.run)[0].argmax())
            count += 1
            if token in generation.ends or step + 1 == STEPS:
                break
            leader.append([token], [0])
            led.append([token], [0])
    return same / max(count, 1)
