"""One fault at one place of an activation: what goes wrong there, and what was heard of the way."""

import asyncio
import shutil
from typing import NamedTuple

from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import Path as Paths
from tests.faults.activation import SERVED, VERSIONS
from tests.faults.promises import WRITES

NEW = 3
_NEW = VERSIONS[NEW][2]
_MARKS = {"done": "", "failed": "!", "failed-for-now": "?", "interrupted": "-"}


class Case(NamedTuple):
    """A row of the table, less what comes of it."""

    kind: str
    where: str
    times: str


class Killed(BaseException):
    """The process ends here."""


class Cloud:
    """A source of bytes in this process."""

    grain = 0
    url = ""

    def __init__(self):
        self.broken = None
        self.before = lambda: asyncio.sleep(0)

    async def get(self, path, keep, *, limit, begin=0):
        await self.before()
        digest = path.rpartition("/")[2]
        kind = "manifest" if path == Paths.MANIFEST.format(digest=digest) else "chunks"
        data = SERVED[digest][begin:]
        if self.broken == kind:
            if kind == "manifest":
                raise Refused("the cloud does not have it", kind=Refusal.NOT_FOUND)
            data = bytes([data[0] ^ 1]) + data[1:]
        await keep(data)


class Fault:
    """One kind of fault at one place, the first time or every time; `died` is the folder as a killed process left it."""

    def __init__(self, case, folder):
        self.kind, self.where, self.times = case
        self.on = True
        self.lives = 0
        self.writes = 0
        self.folder = folder
        self.chain = []

    def due(self, where):
        if not self.on or where != self.where:
            return False
        self.on = self.times == "forever"
        return True

    def kill(self):
        self.lives += 1
        folder = self.folder.with_name(f"life-{self.lives}")
        shutil.copytree(self.folder, folder)
        self.folder = folder
        self.chain.append("KILL")
        raise Killed

    async def at(self, where, agent):
        """Something is about to be done, or was."""
        if not self.due(where):
            return
        match self.kind:
            case "kill":
                self.kill()
            case "hang" if where in {"manifest", "chunks"}:
                agent.cloud.before = asyncio.Event().wait
            case "hang":
                await asyncio.Event().wait()
            case "error":
                self.spoil(where, agent)

    def spoil(self, where, agent):
        match where:
            case "manifest" | "chunks":
                agent.cloud.broken = where
            case "install":
                chunk = VERSIONS[NEW][0].file("cpu-int8.onnx").chunks[0].digest
                agent.store.path(chunk).write_bytes(b"rot")
            case "canary":
                agent.tries.died = {"cpu-int8"}
            case "load":
                agent.host.broken = {(_NEW, "cpu-int8")}
            case "unload":
                raise Corrupt("it does not let go")
            case _:
                raise Transient("the disk is failing", why=Unavailable.STORAGE)

    def attach(self, agent):
        """Let the fault happen in this life."""
        agent.stepped = _Heard(self.chain)
        run, load, before = agent.errands.run, agent.host.load, agent.tries.before

        async def errand(step, limits, *, progress):
            name = type(step).__name__.lower()
            if name == "fetch":
                name = "manifest" if step.variant is None else "chunks"
            # What is loaded at a start is not what is being activated.
            new = getattr(getattr(step, "model", None), "digest", _NEW) == _NEW
            where = name if new and name != "load" else ""
            await self.at(where, agent)
            try:
                await run(step, limits, progress=progress)
            finally:
                if self.times == "once":
                    agent.well()
            await self.at(f"after {where}" if name != "load" or not new else "after load", agent)

        async def canary():
            await self.at("canary", agent)
            await before()

        async def into_memory(tenant, manifest, digest, *rest, **named):
            if digest == _NEW:
                await self.at("load", agent)
            await load(tenant, manifest, digest, *rest, **named)

        agent.errands.run, agent.tries.before, agent.host.load = errand, canary, into_memory
        for name in WRITES:
            setattr(agent.state, name, self._writing(name, getattr(agent.state, name), agent))

    def _writing(self, name, write, agent):
        where = {"apply": "swap", "commit": "commit", "roll_back": "roll back"}.get(name, "")

        def call(*arguments, **options):
            if self.kind == "read-only":
                self._lock(agent)
            elif self.due(where):
                if self.kind == "kill":
                    self.kill()
                self.spoil(where, agent)
            done = write(*arguments, **options)
            if where:
                self.chain.append(where)
            if self.due(f"after {where}"):
                self.kill()
            return done

        return call

    def _lock(self, agent):
        """From the write after `where` others on the record cannot be written, once or until the fault is lifted."""
        self.writes += 1
        first = int(self.where) + 1
        broken = self.on and (self.writes == first if self.times == "once" else self.writes >= first)
        agent.state._db.execute(f"PRAGMA query_only = {int(broken)}")


class _Heard:
    def __init__(self, chain):
        self._chain = chain

    def append(self, ended):
        step, outcome, _ = ended
        self._chain.append(f"{step}{_MARKS[outcome]}")
