"""The device API's content over MQTT, for devices that have nothing else: the device asks for the parts it lacks, at its own pace.

Invariants:

* a bounded number of parts is on its way (`edge_agent.decide.asking`), whatever the broker or the cloud does; parts are small
  enough for any broker, and nothing relies on an acknowledgement: what does not come is asked for again;
* what is lost with a connection is asked for again on the next one; what is damaged, late or not asked for is dropped;
* parts of one `get` are handed on in order and are of one content: where it changed on the way, that is said.
"""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable

from edge_agent.control.fetch import Keep
from edge_agent.decide.asking import PASSED, WINDOW, Flow, arrived, lost
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import Received
from shared.protocol.content import KINDS, MOST_PARTS, OK, Get, Part, Sent, opened
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import Path as Paths

PART_BYTES, LEAST_BYTES = 64 * 1024, 1024
AHEAD = WINDOW // 2
"""Parts of one `get` that may be asked for before the first of them is handed on."""
ROWS = {"chunks-get": (Paths.CHUNK, Paths.MANIFEST), "trust-get": (Paths.TRUST,)}
ABSENT, FORBIDDEN = 404, 403

Send = Callable[[str, Get], Awaitable[None]]


class _Asked:
    """One part that is wanted; `turn` counts the asking, 0 while it is not asked for."""

    def __init__(self, row: str, part: Part) -> None:
        self.row = row
        self.part = part
        self.turn = 0
        self.at = 0.0
        self.again = False
        self.passed = 0
        self.answer: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()

    def to_ask(self) -> None:
        """It was lost."""
        self.turn, self.passed, self.again = 0, 0, True


class MqttSource:
    """Asks by the device's link; see `edge_agent.control.fetch.Source`. Owner of the parts that are wanted."""

    def __init__(self, send: Send, *, clock: Clock, log: Log, part_bytes: int = PART_BYTES) -> None:
        """`send` publishes a request of a row; it raises `Transient` where there is no connection."""
        self.grain = part_bytes
        self._send = send
        self._clock = clock
        self._log = log
        self._flow = Flow()
        self._turn = 0
        self._wanted: list[_Asked] = []
        self._news = asyncio.Event()

    async def get(self, path: str, keep: Keep, *, limit: int, begin: int = 0) -> None:
        """As `Source` says."""
        row, name = _named(path)
        asked: deque[_Asked] = deque()
        known: tuple[int, str] | None = None
        at = to_ask = begin
        try:
            # The size comes with the first part.
            while known is None or at < known[0]:
                while not asked or (known is not None and to_ask < known[0] and len(asked) < AHEAD):
                    asked.append(self._want(row, Part(name, to_ask, to_ask + self.grain)))
                    to_ask += self.grain
                head, data = await asked[0].answer
                whole = asked.popleft().part.end
                if head.status != OK:
                    raise _refusal(path, head.status, head.detail)
                if head.size > limit:
                    raise Corrupt(f"{path} is {head.size} B long, more than its {limit} B", code="too-long")
                if known is not None and (head.size, head.tag) != known:
                    raise Transient(f"{path} changed on the way", why=Unavailable.UNREACHABLE)
                known = head.size, head.tag
                whole = min(max(at, head.size), whole)
                if at + len(data) > whole or (at < whole and not data):
                    raise Corrupt(f"{path}: {len(data)} B from {at} on are not what was asked for", code="part-wrong")
                at += len(data)
                if data:
                    await keep(data)
                if at < whole:
                    # The cloud knows of a broker that takes less at a time: what is asked for already will come short too.
                    self.grain = max(LEAST_BYTES, min(self.grain, len(data)))
                    while asked:
                        self._forget(asked.pop())
                    to_ask = at
        finally:
            for each in asked:
                self._forget(each)

    async def received(self, message: Received) -> None:
        """Take what came on one of the rows of answers.

        Raises:
            Refused: it is no answer, or damaged.

        """
        try:
            sent = opened(message.payload)
        except Corrupt as error:
            raise Refused(error.message, code=error.code) from error
        name, row = message.where.free[0], message.where.row.name
        of = [
            each
            for each in self._wanted
            if each.part.name == name and each.part.begin == sent.head.begin and KINDS[each.row] == row
        ]
        for each in of:
            took = None if each.again or not each.turn else self._clock.monotonic() - each.at
            self._flow = arrived(self._flow, took=took)
            self._passed_by(each.turn)
            self._forget(each)
            if not each.answer.done():
                each.answer.set_result(sent)

    def connected(self) -> None:
        """There is a new connection: what was on its way on the old one is gone."""
        self._flow = Flow(took=self._flow.took)
        for each in self._wanted:
            each.to_ask()
        self._news.set()

    async def run(self) -> None:
        """Ask for what is wanted, for ever."""
        while True:
            waits = [each.at + self._flow.patience for each in self._wanted if each.turn]
            wait = None if not waits else max(0.0, min(waits) - self._clock.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()
            self._news.clear()
            for row, parts in self._due(self._clock.monotonic()).items():
                try:
                    await self._send(row, Get(parts=tuple(parts)))
                except Transient as error:
                    # On the next connection, or after its patience, each is asked for again.
                    self._log.debug("parts not asked for", count=len(parts), error=error.message)

    def _want(self, row: str, part: Part) -> _Asked:
        asked = _Asked(row, part)
        self._wanted.append(asked)
        self._news.set()
        return asked

    def _forget(self, asked: _Asked) -> None:
        if asked in self._wanted:
            self._wanted.remove(asked)
            self._news.set()

    def _passed_by(self, turn: int) -> None:
        """Parts come in the order they were asked for: one that several others have passed was lost."""
        for each in self._wanted:
            if 0 < each.turn < turn:
                each.passed += 1
                if each.passed >= PASSED:
                    each.to_ask()
                    self._flow = lost(self._flow, in_time=True)

    def _due(self, now: float) -> dict[str, list[Part]]:
        """What to ask for now, by row, as far as the window lets."""
        late = [each for each in self._wanted if each.turn and now - each.at >= self._flow.patience]
        if late:
            self._flow = lost(self._flow, in_time=False)
            for each in late:
                each.to_ask()
        room = int(self._flow.window) - sum(1 for each in self._wanted if each.turn)
        due: dict[str, list[Part]] = defaultdict(list)
        for each in [each for each in self._wanted if not each.turn][: min(MOST_PARTS, max(0, room))]:
            self._turn += 1
            each.turn, each.at = self._turn, now
            due[each.row].append(each.part)
        return due


def _named(path: str) -> tuple[str, str]:
    """The row of a path's request, and what it is called there."""
    for row, patterns in ROWS.items():
        for pattern in patterns:
            before = pattern.partition("{")[0]
            if path.startswith(before):
                return row, path.removeprefix(before)
    raise Refused("not to be had over MQTT", kind=Refusal.UNSUPPORTED, field="path", value=path)


def _refusal(path: str, status: int, detail: str) -> Refused | Transient:
    kinds = {ABSENT: Refusal.NOT_FOUND, FORBIDDEN: Refusal.FORBIDDEN}
    if status in kinds:
        return Refused(f"{path}: {detail}", kind=kinds[status])
    return Transient(f"{path}: {detail}", why=Unavailable.UNREACHABLE)
