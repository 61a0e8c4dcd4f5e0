"""Which version of each model answers requests that name none."""

from shared.protocol.desired import Generation
from shared.protocol.policy import rules_for


def active_versions(generation: Generation) -> dict[str, str]:
    """By model: the version with the largest share of a split, else the first listed. A shadow version never answers."""
    active: dict[str, str] = {}
    for name in dict.fromkeys(model.name for model in generation.models):
        rules = rules_for(generation.policy, name)
        versions = [model.version for model in generation.models if model.name == name]
        answering = [version for version in versions if version != rules.shadow] or versions
        shares = rules.split or {}
        active[name] = max(answering, key=lambda version: shares.get(version, 0.0))
    return active
