"""The commands of a scenario script, and what they print.

    policy {mode: cascade, confidence_below: 0.8}
    here {wait: 0, service: 10, takes: 50, full: true, absent: true, fails: true, score: 0.9}
    small {service: 5}
    there {takes: 40, status: 503, down: true, silent: true}
    pressure {wait: 100, admit: 0.2}
    turn {draw: 0.05, silence: 100}
    sleep {s: 5}
    request {within: 100, privacy: local-only, text: hello}
    requests {n: 12, within: 100}

Arguments are YAML flow mappings; times are milliseconds, but for `s` and `silence`, seconds. `here`, `small` (another model on the device) and `there` begin anew each time.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import yaml

from edge_agent.decide import hedging, routing
from shared.protocol.errors import Overloaded, TidelineError, Transient
from shared.protocol.pressure import ModelPressure, Pressure
from shared.serving.answer import Request
from tests.edge_agent.serving.world import MODEL, TENANT
from tests.scenarios.world import Here, There, World

BECAUSE = re.compile(r"because ([a-z-]+)")
SECOND = (
    (routing, "after_local"),
    (routing, "after_local_failure"),
    (routing, "after_cloud_failure"),
    (hedging, "beside_local"),
    (hedging, "beside_cloud"),
)
"""Decisions after the first: a story tells of them only where somebody was asked."""


class Commands:
    """Runs the commands of one script, in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._world = World()
        self._ids = self._world.requests()
        self._second: list[str] = []
        self._depth = 0
        for module, name in SECOND:
            patch.setattr(module, name, self._told(getattr(module, name)))

    async def run(self, line: str) -> str:
        """What command `line` prints."""
        name, _, rest = line.partition(" ")
        known: dict[str, Callable[[dict[str, Any]], Awaitable[str]]] = {
            "policy": self._policy,
            "here": self._here,
            "small": self._small,
            "there": self._there,
            "pressure": self._pressure,
            "turn": self._turn,
            "sleep": self._sleep,
            "request": self._request,
            "requests": self._requests,
        }
        return await known[name](yaml.safe_load(rest or "{}"))

    async def _policy(self, given: dict[str, Any]) -> str:
        self._world.policy(given)
        return f"{self._world.holder.policy.mode.value}"

    async def _here(self, given: dict[str, Any]) -> str:
        self._world.desk.here = msgspec.convert(given, Here, strict=False)
        return "ok"

    async def _small(self, given: dict[str, Any]) -> str:
        self._world.desk.small = msgspec.convert(given, Here, strict=False)
        return "ok"

    async def _there(self, given: dict[str, Any]) -> str:
        self._world.road.there = msgspec.convert(given, There, strict=False)
        return "ok"

    async def _pressure(self, given: dict[str, Any]) -> str:
        told = ModelPressure(expected_wait_s=given["wait"] / 1e3, admit_fraction=given["admit"])
        self._world.cloud.announced(Pressure(models={MODEL: told}, valid_until=self._world.clock.wall() + 60))
        return "ok"

    async def _turn(self, given: dict[str, Any]) -> str:
        for name, value in given.items():
            assert name in ("draw", "silence")
            setattr(self._world, name, float(value))
        return "ok"

    async def _sleep(self, given: dict[str, Any]) -> str:
        await asyncio.sleep(given["s"])
        return f"now {self._world.clock.monotonic():g} s, breaker {self._world.cloud.breaker.value}"

    async def _requests(self, given: dict[str, Any]) -> str:
        count = given.pop("n")
        ended = Counter([(await self._one(given))[1] for _ in range(count)])
        return "\n".join(f"{n} x {end}" for end, n in ended.items())

    async def _request(self, given: dict[str, Any]) -> str:
        lines, end = await self._one(given)
        return "\n".join([*lines, end])

    async def _one(self, given: dict[str, Any]) -> tuple[list[str], str]:
        """One request: its story, and how it ended."""
        began, asked = self._world.clock.monotonic(), next(self._ids)
        self._second.clear()
        request = Request(
            id=asked,
            tenant=TENANT,
            model=MODEL,
            texts=(given.get("text", "hello"),),
            deadline=began + given["within"] / 1e3 if "within" in given else None,
            privacy=given.get("privacy"),
        )
        try:
            response = await self._world.router.answer(request)
            hedged = ", hedged" if response.hedged else ""
            by = f" by {response.model}" if response.model != MODEL else ""
            end = f"answered from {response.where.value}{by} because {response.why}{hedged}"
        except TidelineError as error:
            later = isinstance(error, Overloaded | Transient) and error.retry_after is not None
            end = f"{type(error).__name__}: {error.message}{', come again later' if later else ''}"
        took = (self._world.clock.monotonic() - began) * 1e3
        story = self._world.ring.find(asked)
        told = story.predicted
        here = "absent" if told.local_wait_ms is None else f"{told.local_wait_ms:g}+{told.local_compute_ms:g} ms"
        there = "unknown" if told.cloud_ms is None else f"{told.cloud_ms:.0f} ms"
        lines = [f"decided {story.decision} because {story.reason} (here {here}, there {there})"]
        for each in story.attempts:
            span = f"{each.after_ms:.0f} to {each.after_ms + each.ms:.0f} ms"
            lines.append(f"  {each.where} because {each.reason}: {each.outcome}, {span}")
        lines += [f"  then {second}" for second in self._second]
        return lines, f"{end}, {took:.0f} ms"

    def _told(self, decide: Callable[..., Any]) -> Callable[..., Any]:
        """`decide`, with its outermost verdicts noted."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                verdict = decide(*args, **kwargs)
            finally:
                self._depth -= 1
            if self._depth == 0:
                self._second.append(f"{type(verdict).__name__.lower()} because {verdict.reason.value}")
            return verdict

        return noted
