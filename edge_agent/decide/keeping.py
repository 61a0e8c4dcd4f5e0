"""How firmly a device holds the versions of its generation in memory.

A model that must be answered here is put out of memory after all others: nobody else can answer for it while it comes back. It is
not pinned for that, since a device whose every model is local-only could then never run the last of them. Pinned is only what
somebody who knows the device names; pins that do not fit together are held like the first.
"""

from collections.abc import Collection

from shared.protocol.desired import Generation
from shared.protocol.policy import Mode, rules_for
from shared.serving.decide.residency import Keep


def keeps(generation: Generation, pinned: Collection[str] = ()) -> dict[tuple[str, str], Keep]:
    """By name and version, where it is not held as any; `pinned` are names of models. A shadow version answers nobody."""
    found: dict[tuple[str, str], Keep] = {}
    for model in generation.models:
        rules = rules_for(generation.policy, model.name)
        if model.version == rules.shadow:
            continue
        if model.name in pinned:
            found[model.name, model.version] = Keep.PINNED
        elif rules.mode is Mode.LOCAL_ONLY:
            found[model.name, model.version] = Keep.LAST
    return found
