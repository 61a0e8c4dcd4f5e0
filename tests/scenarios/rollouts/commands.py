"""What scripts can say, one command per line, and what it prints: the fleet, its rollouts, and every verdict as it falls."""

import json
import shlex
from collections.abc import Callable

import msgspec

from cloud_core.decide.rollout_devices import Patience
from cloud_core.decide.rollout_gates import Outcome
from cloud_core.decide.rollout_spec import OPEN, Action, Approval, DeviceGates, OnBad, Verdict
from cloud_core.decide.rollout_waves import ALL_AT_ONCE, CANARY, Rate
from tests.scenarios.rollouts.traffic import GOOD, PLANTED, Behaviour
from tests.scenarios.rollouts.world import START, World

BEHAVIOURS = {
    "good": GOOD,
    "fails": Behaviour(fails=1.0),
    "fails-on-some": Behaviour(fails=0.3),
    "stuck": Behaviour(converges_s=None),
    "slow-to-load": Behaviour(converges_s=300.0),
    **PLANTED,
}
DAY_S = 86400.0


class Commands:
    """Owner of the world a script plays in."""

    def __init__(self) -> None:
        self._world = World([1])

    def run(self, line: str) -> str:
        """One command."""
        verb, *words = shlex.split(line)
        known: dict[str, Callable[[list[str]], list[str]]] = {
            "fleet": self._fleet,
            "version": self._version,
            "start": self._start,
            "wait": self._wait,
            "offline": self._offline,
            "online": self._online,
            "leave": self._leave,
            "join": self._join,
            "flap": self._flap,
            "show": self._show,
            "members": self._members,
            **{action.value: self._acting(action) for action in Action},
        }
        return "\n".join(known[verb](words))

    def _fleet(self, words: list[str]) -> list[str]:
        """`fleet SIZE...`: sites of so many devices, all on 1.0.0."""
        self._world = World([int(word) for word in words])
        return [f"{len(self._world.devices)} devices at {len(words)} sites run 1.0.0"]

    def _version(self, words: list[str]) -> list[str]:
        """`version NAME HOW`."""
        self._world.behaviours[words[0]] = BEHAVIOURS[words[1]]
        return [f"{words[0]} is {words[1]}"]

    def _start(self, words: list[str]) -> list[str]:
        """`start ID VERSION key=value...`."""
        id_, version, *given = words
        made: dict[str, object] = {}
        for word in given:
            name, _, text = word.partition("=")
            made[name] = _value(name, text)
        if self._world.is_open(str(made.get("model", "m"))):
            return ["refused: a rollout of this model is under way"]
        self._world.start(id_, version, **made)
        return self._show([id_])

    def _wait(self, words: list[str]) -> list[str]:
        """`wait SECONDS [STEP]`: and what changed meanwhile."""
        seconds, step = float(words[0]), float(words[1]) if len(words) > 1 else 10.0
        said: list[str] = []
        before = {
            id_: (one.rollout.state, one.rollout.wave, one.rollout.why) for id_, one in self._world.rollouts.items()
        }
        told = {id_: len(one.verdicts) for id_, one in self._world.rollouts.items()}
        end = self._world.now + seconds
        while self._world.now < end:
            self._world.run(min(step, end - self._world.now), step=step)
            for id_, one in self._world.rollouts.items():
                for verdict in one.verdicts[told.get(id_, 0) :]:
                    said += [f"{self._clock()} {id_}: {line}" for line in _told(verdict)]
                told[id_] = len(one.verdicts)
                now = (one.rollout.state, one.rollout.wave, one.rollout.why)
                if before.get(id_) != now:
                    said.append(f"{self._clock()} {self._show([id_])[0]}")
                before[id_] = now
        return said or ["nothing changed"]

    def _offline(self, words: list[str]) -> list[str]:
        """`offline DEVICE...` or `offline next N`: those that would come last by name."""
        names = sorted(self._world.devices)[-int(words[1]) :] if words[0] == "next" else words
        for name in names:
            self._world.go_offline(name)
        return [f"{len(names)} devices are gone"]

    def _online(self, _: list[str]) -> list[str]:
        """`online`: everybody who was gone is back, and follows the newest generation."""
        gone = [device.name for device in self._world.devices.values() if device.online_since is None]
        for name in gone:
            self._world.come_back(name)
        return [f"{len(gone)} devices are back"]

    def _leave(self, words: list[str]) -> list[str]:
        for name in words:
            self._world.leave(name)
        return [f"{', '.join(words)} left the group"]

    def _join(self, words: list[str]) -> list[str]:
        for name in words:
            self._world.join(name)
        return [f"{', '.join(words)} joined the group"]

    def _flap(self, words: list[str]) -> list[str]:
        """`flap DEVICE TIMES`: gone for 10 seconds and back for 20, again and again."""
        said: list[str] = []
        for _ in range(int(words[1])):
            self._world.go_offline(words[0])
            said += self._wait(["10"])
            self._world.come_back(words[0])
            said += self._wait(["20"])
        return [line for line in said if line != "nothing changed"] or ["nothing changed"]

    def _acting(self, action: Action) -> Callable[[list[str]], list[str]]:
        def act(words: list[str]) -> list[str]:
            done = self._world.act(words[0], action)
            state = self._world.rollouts[words[0]].rollout.state.value
            return (
                self._show(words) if done else [f"refused: a rollout that is {state} cannot be told to {action.value}"]
            )

        return act

    def _show(self, words: list[str]) -> list[str]:
        """One rollout in a line: state, wave, why, devices by state, and how many of the fleet run its version."""
        one = self._world.rollouts[words[0]]
        counts: dict[str, int] = {}
        for member in one.members.values():
            counts[member.state.value] = counts.get(member.state.value, 0) + 1
        devices = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nobody yet"
        spec, rollout = one.rollout.spec, one.rollout
        runs = sum(device.runs.get(spec.model) == spec.version for device in self._world.devices.values())
        where = f"wave {rollout.wave + 1} of {len(spec.waves)}" if rollout.state in OPEN else "ended"
        return [
            f"{words[0]}: {rollout.state.value} ({rollout.why.value}), {where}; {devices}; {runs} run {spec.version}"
        ]

    def _members(self, words: list[str]) -> list[str]:
        """Who came in, by wave and site: to see the order spread."""
        found: dict[int, dict[str, int]] = {}
        for member in self._world.rollouts[words[0]].members.values():
            sites = found.setdefault(member.wave, {})
            site = self._world.devices[member.device].site
            sites[site] = sites.get(site, 0) + 1
        return [
            f"wave {wave + 1}: " + ", ".join(f"{count} of {site}" for site, count in sorted(sites.items()))
            for wave, sites in sorted(found.items())
        ]

    def _clock(self) -> str:
        days, rest = divmod(int(self._world.now - START), int(DAY_S))
        hours, seconds = divmod(rest, 3600)
        return f"{days}d {hours:02}:{seconds // 60:02}:{seconds % 60:02}"


def _told(verdict: Verdict) -> list[str]:
    numbers = ", ".join(f"{name} {value:g}" for name, value in verdict.numbers.items() if value)
    lines = [f"wave {verdict.wave + 1} {verdict.why.value} -> {verdict.decision.value}: {numbers}"]
    for check in verdict.checks:
        if check.outcome is Outcome.BAD:
            lines.append(
                f"  {check.name} is bad: {check.base:.3g} -> {check.candidate:.3g}, difference {check.difference:.2g}, limit {check.limit:g}"
            )
    return lines


def _value(name: str, text: str) -> object:
    match name:
        case "waves":
            return {"canary": CANARY, "all-at-once": ALL_AT_ONCE}.get(text) or tuple(text.split(","))
        case "on_bad":
            return OnBad(text)
        case "approval":
            return Approval(text)
        case "rate":
            return msgspec.convert(json.loads(text), Rate)
        case "patience":
            return msgspec.convert(json.loads(text), Patience)
        case "gates":
            return msgspec.convert(json.loads(text), DeviceGates)
        case "window" | "model":
            return text
        case "needs_evidence":
            return text == "true"
        case "priority":
            return int(text)
        case _:
            return float(text)
