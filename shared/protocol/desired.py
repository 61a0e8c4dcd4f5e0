"""What a device should run: one generation holds models, policy and limits together.

Desired state is a level, not a queue: a device always converges to the newest generation it may trust, never through
those in between. Generations are ordered by the signed pair (control epoch, number); the epoch rises when a control
plane is restored from a backup. The signature covers the payload's bytes as they were sent, so nothing is re-encoded.
"""

from typing import NamedTuple

import msgspec

from shared.protocol.envelope import decoded
from shared.protocol.errors import Refusal, Refused
from shared.protocol.policy import Policy
from shared.serving.arrangement import Arrangement

KIND = "desired"


class Order(NamedTuple):
    """Orders generations: control epoch first, then number."""

    epoch: int
    number: int


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """A model version to run. `digest` is its manifest's; `variant` None lets the device pick by its capabilities.

    `arrangement`: how it was found to run best on devices like this one; None lets the device measure. What the device cannot do, it
    does not follow.
    """

    name: str
    version: str
    digest: str
    variant: str | None = None
    arrangement: Arrangement | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent may use on its device; None leaves the agent's own setting.

    `download_window`: when chunks may be fetched, as `shared.protocol.window` reads it; None is always.
    """

    threads: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    download_bytes_per_s: int | None = None
    download_window: str | None = None


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole desired state of one device. Times are Unix seconds; `expires_at` alarms and never stops what runs."""

    tenant: str
    device: str
    epoch: int
    number: int
    issued_at: float
    expires_at: float
    models: tuple[ModelRef, ...]
    policy: Policy
    policy_name: str | None = None
    policy_revision: int = 0
    limits: Limits = Limits()

    @property
    def order(self) -> Order:
        """What generations are compared by."""
        return Order(self.epoch, self.number)


class SignedGeneration(msgspec.Struct, frozen=True, kw_only=True):
    """`payload` is the JSON text of a Generation; `signature` is base64 Ed25519 over its UTF-8 bytes by key `key_id`."""

    key_id: str
    signature: str
    payload: str


def generation_in(signed: SignedGeneration) -> Generation:
    """The generation in an already verified message.

    Raises:
        Refused: not a generation, a policy that cannot hold, or a policy that names a model this generation lacks.

    """
    generation = decoded(signed.payload.encode(), Generation, field="payload")
    check_generation(generation)
    return generation


def check_generation(generation: Generation) -> None:
    """Refuse a generation that contradicts itself: as a whole, never in part."""
    present = [model.name for model in generation.models]
    versions = {(model.name, model.version) for model in generation.models}
    if len(versions) != len(generation.models):
        raise Refused("a model version stands twice", kind=Refusal.UNPROCESSABLE, field="models", value=present)
    smaller = {"policy": generation.policy.smaller_model}
    smaller |= {f"policy.models.{name}": each.smaller_model for name, each in generation.policy.models.items()}
    for path, named in smaller.items():
        if named is not None and named not in present:
            raise Refused(
                "the policy names a model that is absent",
                kind=Refusal.UNPROCESSABLE,
                field=f"{path}.smaller_model",
                value=named,
                allowed=", ".join(present) or "no model",
            )
    for name, override in generation.policy.models.items():
        if name not in present:
            raise Refused(
                "the policy names a model that is absent",
                kind=Refusal.UNPROCESSABLE,
                field=f"policy.models.{name}",
                allowed=", ".join(present) or "no model",
            )
        for version in (*(override.split or {}), *((override.shadow,) if override.shadow else ())):
            if (name, version) not in versions:
                raise Refused(
                    "the policy names a version that is absent",
                    kind=Refusal.UNPROCESSABLE,
                    field=f"policy.models.{name}",
                    value=version,
                )
