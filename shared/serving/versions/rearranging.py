"""Running a version in another way: loaded like that beside what runs, swapped, and the old let go. No request notices."""

from pathlib import Path

from shared.protocol.errors import Corrupt
from shared.protocol.reported import ModelState
from shared.serving.arrangement import Arrangement
from shared.serving.memory.room import Room
from shared.serving.versions.loaded import LoadedModel


async def rearrange(room: Room, model: LoadedModel, arrangement: Arrangement, folder: Path) -> bool:
    """Let `model`, installed in `folder`, run as `arrangement` says; False where it is not ready, or there is no room for both.

    A program that is not in memory comes back like this.

    Raises:
        Refused, Corrupt: it cannot be loaded like this, or answers otherwise than its golden set; it runs as it did.

    """
    async with room.lock:
        if model.state is not ModelState.READY:
            return False
        before, present = model.arrangement, model.residence.present
        if present and room.budget is not None:
            # Both are in memory for a moment.
            taken = sum(each.bytes for each in room.residents())
            if taken + model.residence.footprint.bytes > room.budget:
                return False
        model.arrange(arrangement)
        if present:
            try:
                await _renew(room, model)
            except BaseException:
                model.arrange(before)
                raise
            if differences := await model.check_golden(folder):
                model.arrange(before)
                await _renew(room, model)
                raise Corrupt(f"the golden set differs: {'; '.join(differences[:3])}", code="golden-differs")
    return True


async def _renew(room: Room, model: LoadedModel) -> None:
    await room.let_go(model, await model.program.renew())
    await room.trim()
    model.residence.runs = 0
