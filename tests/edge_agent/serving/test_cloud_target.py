"""What the device learns of its cloud from words that do not come."""

from bench.routing_sim_world import World
from edge_agent.decide.breaker import DOUBT_S, FAILURES, State
from edge_agent.serving.cloud import CloudTarget
from shared.protocol.policy import Policy, rules_for

RULES = rules_for(Policy(), "m")


def target(world: World) -> CloudTarget:
    found = CloudTarget(clock=world, draw=lambda: 0.5)
    found.enrolled(silence=lambda: 0.0)
    return found


def known(world: World, seconds: float) -> CloudTarget:
    found = target(world)
    for _ in range(50):
        found.sent()
        world.now += seconds
        found.answered("m", seconds)
    return found


def test_an_unknown_cloud_takes_at_least_as_long_as_the_first_has_been_waiting() -> None:
    world = World()
    cloud = target(world)
    assert cloud.state("m", RULES).estimate is None
    cloud.sent()
    world.now += 0.3
    cloud.sent()
    assert cloud.state("m", RULES).completion == 0.3


def test_who_had_less_time_than_answers_take_tells_nothing() -> None:
    world = World()
    cloud = known(world, 0.4)
    before = cloud.state("m", RULES)
    for _ in range(2 * FAILURES):
        cloud.sent()
        cloud.ran_late("m", 0.3)
    assert cloud.breaker is State.CLOSED
    assert cloud.state("m", RULES) == before


def test_an_outage_is_found_out_about_by_what_would_be_refused_and_teaches_nothing_more() -> None:
    world = World()
    cloud = known(world, 0.1)
    for _ in range(FAILURES):
        cloud.sent()
        world.now += 1.0
        cloud.ran_late("m", 1.0)
    assert cloud.breaker is State.OPEN
    opened = cloud.state("m", RULES)
    assert not opened.permitted
    assert not opened.doubted
    world.now += DOUBT_S
    found = cloud.state("m", RULES)
    assert not found.permitted
    assert found.doubted
    cloud.sent()
    world.now += 1.0
    cloud.ran_late("m", 1.0)
    later = cloud.state("m", RULES)
    assert cloud.breaker is State.OPEN
    assert later.estimate is not None
    assert opened.estimate is not None
    assert later.estimate <= opened.estimate
    world.now += DOUBT_S
    cloud.sent()
    cloud.answered("m", 0.1)
    assert cloud.state("m", RULES).permitted
