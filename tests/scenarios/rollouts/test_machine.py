"""Whatever people and devices do, and in whatever order: nobody gets a version nobody named, a pause holds, and every rollout ends."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloud_core.decide.rollout_devices import HAVING, Patience
from cloud_core.decide.rollout_spec import OPEN, Action, Approval, OnBad, State
from tests.scenarios.rollouts.commands import BEHAVIOURS
from tests.scenarios.rollouts.world import MODEL, World

ENDS_S = 7200.0
KINDS = sorted({"good", "fails", "fails-on-some", "stuck", "slow-to-load", "latency"})


class Rollouts(RuleBasedStateMachine):
    """A small fleet, two models, and every act there is."""

    @initialize(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
    def begin(self, sizes: list[int], seed: int) -> None:
        self.world = World(sizes, seed=f"machine-{seed}")
        self.number = 1
        self.named = {f"{MODEL}@1.0.0"}
        self.before: dict[str, set[str]] = {}

    @rule(
        model=st.sampled_from([MODEL, "n"]),
        kind=st.sampled_from(KINDS),
        waves=st.sampled_from([("100%",), ("1", "100%"), ("1", "50%", "100%")]),
        approval=st.sampled_from(Approval),
        on_bad=st.sampled_from(OnBad),
        retries=st.integers(0, 2),
        priority=st.integers(-1, 1),
        window=st.sampled_from([None, "00:00-12:00"]),
    )
    def start(self, model: str, kind: str, priority: int, retries: int, **changes: object) -> None:
        if self.world.is_open(model):
            return
        self.number += 1
        version = f"{self.number}.0.0"
        self.world.behaviours[version] = BEHAVIOURS[kind]
        self.named.add(f"{model}@{version}")
        self.world.start(
            f"r{self.number}", version, model=model, priority=priority, soak_s=60.0, ends_within_s=ENDS_S,
            patience=Patience(timeout_s=300.0, retries=retries, backoff_s=30.0), **changes,
        )  # fmt: skip

    @rule(steps=st.integers(1, 12))
    def wait(self, steps: int) -> None:
        for _ in range(steps):
            paused = {
                id_: self._having(id_) for id_, one in self.world.rollouts.items() if self._still(one.rollout.state)
            }
            self.world.run(30.0, step=30.0)
            for id_, before in paused.items():
                if self._still(self.world.rollouts[id_].rollout.state):
                    assert self._having(id_) <= before

    @rule(which=st.integers(0, 50), action=st.sampled_from(Action))
    def act(self, which: int, action: Action) -> None:
        if self.world.rollouts:
            id_ = sorted(self.world.rollouts)[which % len(self.world.rollouts)]
            rollout = self.world.rollouts[id_].rollout
            # As the API does: what was aborted is not taken back while another rollout of its model is under way.
            if rollout.state is State.ABORTED and self.world.is_open(rollout.spec.model):
                return
            self.world.act(id_, action)

    @rule(which=st.integers(0, 50))
    def toggle(self, which: int) -> None:
        name = sorted(self.world.devices)[which % len(self.world.devices)]
        if self.world.devices[name].online_since is None:
            self.world.come_back(name)
        else:
            self.world.go_offline(name)

    @rule(which=st.integers(0, 50))
    def change_group(self, which: int) -> None:
        name = sorted(self.world.devices)[which % len(self.world.devices)]
        (self.world.leave if self.world.devices[name].member else self.world.join)(name)

    @invariant()
    def nobody_gets_a_version_nobody_named(self) -> None:
        for device in self.world.devices.values():
            assert set(device.versions) <= self.named

    @invariant()
    def what_devices_should_run_is_what_rollouts_and_assignments_say(self) -> None:
        given: dict[str, set[str]] = {}
        for one in self.world.rollouts.values():
            for member in one.members.values():
                given.setdefault(member.device, set()).add(one.rollout.spec.version)
        assigned = {wish.version for each in self.world.assigned for wish in each.models}
        for name, held in self.world.held.items():
            assert {model.version for model in held.content.models} <= assigned | given.get(name, set())

    def teardown(self) -> None:
        """People stop interfering, everybody comes back: every rollout that no person holds ends in its time."""
        if not hasattr(self, "world"):
            return
        for device in self.world.devices.values():
            if device.online_since is None:
                self.world.come_back(device.name)
        for _ in range(50):
            open_ones = [id_ for id_, one in self.world.rollouts.items() if one.rollout.state in OPEN]
            if not open_ones:
                break
            for id_ in open_ones:
                self.world.act(id_, Action.RESUME)
                self.world.act(id_, Action.APPROVE)
            self.world.run(ENDS_S, step=300.0)
        assert not [one.rollout for one in self.world.rollouts.values() if one.rollout.state in OPEN]

    def _having(self, id_: str) -> set[str]:
        """Devices that are given the version."""
        return {one.device for one in self.world.rollouts[id_].members.values() if one.state in HAVING}

    @staticmethod
    def _still(state: State) -> bool:
        return state in (State.PAUSED, State.AWAITING_APPROVAL)


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
