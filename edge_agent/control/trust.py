"""May this generation be accepted? The rules in one place, applied to the exact bytes that were signed."""

from collections.abc import Sequence
from typing import NamedTuple

from edge_agent.control.state import LARGEST
from shared.io.signing import verify
from shared.protocol import names
from shared.protocol.desired import Generation, Order, SignedGeneration, generation_in
from shared.protocol.enrolment import PinnedKey
from shared.protocol.errors import Refusal, Refused


class Trust(NamedTuple):
    """What enrolment pinned: who this device is, and whose signatures it takes."""

    tenant: str
    device: str
    keys: Sequence[PinnedKey]

    def verified(self, signed: SignedGeneration) -> Generation:
        """The generation in a message that is signed by a pinned key, for this device, and whole.

        Raises:
            Refused: it is not; says what.

        """
        verify(signed.payload.encode(), signature=signed.signature, key_id=signed.key_id, keys=self.keys)
        generation = generation_in(signed)
        if (generation.tenant, generation.device) != (self.tenant, self.device):
            raise Refused(
                "a generation for another device",
                kind=Refusal.FORBIDDEN,
                field="payload.device",
                value=f"{generation.tenant}/{generation.device}",
                allowed=f"{self.tenant}/{self.device}",
            )
        for field, number in (("epoch", generation.epoch), ("number", generation.number)):
            if not 0 <= number <= LARGEST:
                raise Refused("out of range", field=f"payload.{field}", value=number, allowed=f"0 to {LARGEST}")
        for i, model in enumerate(generation.models):
            names.checked("model", model.name, field=f"payload.models[{i}].name")
            names.checked("version", model.version, field=f"payload.models[{i}].version")
            names.checked("digest", model.digest, field=f"payload.models[{i}].digest")
            if model.variant is not None:
                names.checked("file", model.variant, field=f"payload.models[{i}].variant")
        return generation

    def kept(self, signed: SignedGeneration) -> Generation:
        """The generation in a message that was accepted before and comes from our own disk.

        Its key may have been replaced since: what was trusted then still runs. A signature by a key that is still pinned is
        checked again, since a byte may have rotted.

        Raises:
            Refused: it rotted, or belongs to another device.

        """
        if any(key.key_id == signed.key_id for key in self.keys):
            return self.verified(signed)
        generation = generation_in(signed)
        if (generation.tenant, generation.device) != (self.tenant, self.device):
            raise Refused("a generation for another device", kind=Refusal.FORBIDDEN, field="payload.device")
        return generation


def check_newer(generation: Generation, *, floor: Order | None) -> None:
    """Refuse what does not rise above the highest order ever accepted: replayed, restored or reordered messages.

    Raises:
        Refused: it does not.

    """
    if floor is not None and generation.order <= floor:
        raise Refused(
            "not newer than what was accepted before",
            kind=Refusal.CONFLICT,
            field="payload.number",
            value=tuple(generation.order),
            allowed=f"above {tuple(floor)}",
        )
