import pytest
from prometheus_client import CollectorRegistry

from edge_agent.decide.breaker import State
from edge_agent.telemetry.convergence import ConvergenceWatch
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval
from shared.protocol.desired import Order
from shared.protocol.reported import Convergence, Reported
from tests.edge_agent.control.device import on_device
from tests.edge_agent.control.generations import signed
from tests.edge_agent.control.scene import BYTES, ONE, applied, failed


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1000.0 + self.now


def report(convergence: Convergence, applied: int | None, target: int, error: str | None = None) -> Reported:
    order = None if applied is None else Order(1, applied)
    return Reported(
        epoch=0,
        seq=0,
        at=0.0,
        applied=order,
        target=Order(1, target),
        convergence=convergence,
        models=(),
        error=error,
    )


def test_how_long_it_took_and_how_it_ended_is_told_once() -> None:
    clock, interval, registry = Clock(), Interval(), CollectorRegistry()
    watch = ConvergenceWatch(AgentMetrics(registry, breaker=lambda: State.CLOSED), interval, clock)
    watch.changed(report(Convergence.CONVERGING, None, 1))
    clock.now = 2.5
    watch.changed(report(Convergence.APPLIED, 1, 1))
    watch.changed(report(Convergence.APPLIED, 1, 1))
    _, converged = interval.take_convergence()
    assert converged is not None
    assert (converged.count, converged.sum) == (1, 2.5)
    watch.changed(report(Convergence.CONVERGING, 1, 2))
    watch.changed(report(Convergence.FAILED, 1, 2, "no variant"))
    watch.changed(report(Convergence.FAILED, 1, 2, "no variant"))
    assert [(each.kind, each.subject, each.detail, each.at) for each in interval.take_events()] == [
        ("converged", "1.1", "2.500 s", 1002.5),
        ("failed", "1.2", "no variant", 1002.5),
    ]
    assert registry.get_sample_value("tideline_convergence_seconds_count") == 1


@pytest.mark.parametrize("whole", [True, False])
def test_every_step_of_a_real_convergence_is_told(tmp_path, whole) -> None:  # type: ignore[no-untyped-def]
    async def work(start, api):  # type: ignore[no-untyped-def]
        api.bytes = dict(BYTES)
        async with start().running() as agent:
            if not whole:
                agent.tries.died = {"cpu-int8", "cpu-fp32"}
            await agent.converger.accept(signed(ONE))
            await agent.until(applied(ONE) if whole else failed)
            outcomes = {(step, outcome) for step, outcome, _ in agent.stepped}
            if whole:
                assert outcomes == {(step, "done") for step in ("fetch", "install", "load")}
            else:
                assert ("load", "failed") in outcomes
            assert all(seconds >= 0.0 for _, _, seconds in agent.stepped)

    on_device(tmp_path, work)
