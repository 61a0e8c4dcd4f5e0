"""A whole device for tests: a real record, store, fetcher and HTTP server; only the models' programs are scripted."""

import asyncio
from contextlib import asynccontextmanager

import structlog

from edge_agent.control.applied import PolicyHolder
from edge_agent.control.arrangements import Arrangements
from edge_agent.control.converge import Converger
from edge_agent.control.errand import Errands
from edge_agent.control.fetch import Fetcher
from edge_agent.control.fetch_http import HttpSource
from edge_agent.control.host import Disk
from edge_agent.control.loading import Loader
from edge_agent.control.probation import Probation
from edge_agent.control.state import AgentState
from edge_agent.control.stepper import Stepper
from edge_agent.control.trials import Trials
from edge_agent.control.trust import Trust
from edge_agent.decide.arranging import Fixed, Wishes
from edge_agent.decide.probation import Terms
from edge_agent.decide.variants import Device
from edge_agent.serving.evidence import Evidence
from shared.bundle.manifest import TaskKind
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.protocol.reported import Isolation, ModelState
from shared.serving.catalog import Listed
from shared.serving.decide.tuned import Machine
from shared.serving.trial.verdict import Died, Passed, TrialLimits
from shared.serving.tuning.records import Records
from tests.edge_agent.control.device_api import Tokens, device_api
from tests.edge_agent.control.generations import SIGNER

MACHINE = Machine(machine="x86_64", model="a processor", features=(), cores=4, runtimes={"onnxruntime": "1"})
AT_ONCE = Terms(shortest_s=0.0, longest_s=0.0)
"""A probation that ends as it begins."""
WISHES = Wishes(fixed=Fixed(threads=2))


async def trusts_all(model):
    """What may be installed is tested with real metadata, in `tests/scenarios/trust`."""


class Host:
    """Has models in memory as the engine does; `broken` are (digest, variant) whose program cannot be loaded."""

    def __init__(self):
        self.broken = set()
        self.loaded = {}
        self.active = {}
        self.done = []
        self.arrangements = {}
        self.refused = set()
        self.roomy = True

    def models(self, tenant=None):
        return list(self.loaded.values())

    async def load(self, tenant, manifest, digest, folder, variant, *, arrangement):
        assert (folder / manifest.variant(variant).files[0]).is_file()
        key = (manifest.name, manifest.version)
        before = self.loaded.get(key)
        if before is not None and before.state is not ModelState.FAILED:
            raise Refused("the version is loaded already", kind=Refusal.CONFLICT, field="version")
        self.done.append(("load", *key, variant, arrangement.threads))
        self.arrangements[key] = arrangement
        entry = Listed(
            tenant=tenant,
            name=manifest.name,
            version=manifest.version,
            task=TaskKind.TENSOR,
            state=ModelState.LOADING,
            variant=variant,
            digest=digest,
        )
        self.put(entry)
        await asyncio.sleep(0)
        if (digest, variant) in self.broken or arrangement in self.refused:
            self.put(entry, ModelState.FAILED)
            raise Corrupt("the program cannot be loaded")
        self.put(entry, ModelState.READY)

    async def rearrange(self, tenant, name, version, arrangement, folder):
        if arrangement in self.refused:
            raise Corrupt("the program cannot be run like that")
        self.arrangements[name, version] = arrangement
        return self.roomy

    def put(self, entry, state=ModelState.LOADING):
        listed = {name: getattr(entry, name) for name in entry.__struct_fields__} | {"state": state}
        self.loaded[entry.name, entry.version] = Listed(**listed)

    def activate(self, tenant, versions):
        for name, version in versions.items():
            assert self.loaded[name, version].state is ModelState.READY
        self.active = dict(versions)
        self.done.append(("activate", dict(versions)))

    def hold(self, tenant, keeps):
        self.kept = dict(keeps)

    def bound(self, memory_bytes):
        self.memory_bytes = memory_bytes

    async def unload(self, tenant, name, version):
        self.done.append(("unload", name, version))
        del self.loaded[name, version]


class Tries:
    """Says of a trial what a test wants said: `died` are variants that do not pass."""

    def __init__(self):
        self.died = set()
        self.done = []
        self.before = lambda: asyncio.sleep(0)

    async def __call__(self, request):
        self.done.append(request.variant)
        await self.before()
        if request.variant in self.died:
            return Died(isolation=Isolation.SECCOMP, code="crashed", message="it kills the process that loads it")
        return Passed(isolation=Isolation.SECCOMP)


class Agent:
    """One run of an agent on `folder`; `state.close()` and another one on the same folder is a restart."""

    def __init__(
        self,
        folder,
        api,
        http,
        *,
        keys=(SIGNER.pinned,),
        preferred="cpu-int8",
        runtime="onnxruntime 1",
        wishes=WISHES,
        pinned=(),
        parallel=4,
        terms=AT_ONCE,
        clock=None,
        source=None,
        draw=0.0,
        check=trusts_all,
        host=None,
    ):
        self.state = AgentState(folder)
        self.store = ChunkStore(folder / "chunks")
        self.bundles = folder / "bundles"
        self.host = host or Host()
        self.tries = Tries()
        self.holder = PolicyHolder()
        self.api = api
        self.news = asyncio.Event()
        self.stepped = []
        disk = Disk(self.state, self.store, self.bundles)
        clock = clock or SystemClock()
        log = structlog.wrap_logger(structlog.PrintLogger(), processors=[structlog.processors.KeyValueRenderer()])
        trials = Trials(folder, limits=TrialLimits(), runtime=runtime, log=log, trial=self.tries)
        self.records = Records(folder, log)
        self.arrangements = Arrangements(self.records, MACHINE, wishes)
        self.loader = Loader(self.host, trials, self.arrangements, log)
        self.evidence = Evidence()
        probation = Probation(
            self.state,
            tallies=lambda: self.evidence.tallies,
            forget=self.evidence.forget,
            clock=clock,
            log=log,
            terms=terms,
        )
        fetcher = Fetcher(source or HttpSource(http, api_url=api.url, tokens=Tokens()), clock=clock, parallel=parallel)
        self.errands = Errands("default", disk, fetcher, self.host, self.loader, check)
        stepper = Stepper(
            "default",
            disk,
            self.errands,
            host=self.host,
            device=Device(preferred=preferred, insists=False),
            measured=self.arrangements.advised,
            clock=clock,
            log=log,
            stepped=lambda *ended: self.stepped.append(ended),
        )
        self.converger = Converger(
            Trust("default", "edge-1", keys),
            stepper,
            probation,
            state=self.state,
            host=self.host,
            holder=self.holder,
            arrangements=self.arrangements,
            clock=clock,
            log=log,
            draw=lambda: draw,
            changed=self.news.set,
            isolation=Isolation.SECCOMP,
            pinned=pinned,
        )

    @property
    def report(self):
        return self.converger.report()

    def model(self, name="sentiment-zh", version="1.0.0"):
        return next(one for one in self.report.models if (one.name, one.version) == (name, version))

    @asynccontextmanager
    async def running(self):
        await self.converger.start_from_disk()
        task = asyncio.create_task(self.converger.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})
            self.state.close()
            if not task.cancelled():
                task.result()

    async def until(self, holds):
        """Wait until `holds(report)`; the converger says when there is something new."""
        async with asyncio.timeout(20):
            while not holds(self.report):
                self.news.clear()
                await self.news.wait()


def on_device(folder, work):
    """Run `work(agent, api, again)`; `again()` makes another agent on the same folder."""

    async def run():
        async with device_api() as (api, http):
            await work(lambda **options: Agent(folder, api, http, **options), api)

    asyncio.run(asyncio.wait_for(run(), 60))
