"""The corpus against one running control plane and one running agent: refused with a reason, and both go on as they were."""

import pytest

from tests.hostile import programs
from tests.hostile.corpus import CORPUS, MANIFESTS, bundle, renamed
from tests.hostile.fleet import EDGE, GOOD, edited

SLOW = [pytest.mark.slow]
GATED = {
    "outside-parent", "outside-in-a-subgraph", "functions-3000-deep", "stride-zero", "bomb-constant", "bomb-at-run",
    "nested-branches", "million-nodes", "op-python", "opset-of-the-future", "truncated", "pickle", "array-of-objects",
    "tokenizer-nested", "file-of-another-kind", "answers-nan", "golden-nested",
}  # fmt: skip
"""One of each kind; the rest with the slow ones."""
EVERY = [pytest.param(one, id=one.name, marks=[] if one.name in GATED else SLOW) for one in CORPUS]
SMUGGLED = (
    "functions-3000-deep", "bomb-at-run", "outside-beside", "op-python", "array-of-objects", "answers-nan", "pickle",
    "golden-nested", "loop-endless", "million-nodes",
)  # fmt: skip
QUICK = ("functions-3000-deep", "bomb-at-run", "answers-nan")


@pytest.mark.parametrize("hostile", EVERY)
def test_the_gate_refuses_it_and_says_why(fleet, tmp_path, hostile):
    made = hostile.make(tmp_path / "sentinel")

    async def story():
        status, problem = await fleet.publish(made, hostile.name)
        assert (status, problem["code"]) == (422, hostile.gate), problem
        assert problem["field"]
        assert problem["detail"].startswith("cpu: "), problem
        assert "Traceback" not in problem["detail"]
        assert str(fleet.folder) not in problem["detail"]
        assert await fleet.versions(hostile.name) == []

    fleet.run(story())
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("name", MANIFESTS)
def test_names_that_leave_the_folder_never_reach_a_trial(fleet, name):
    async def story():
        status, problem = await fleet.publish(renamed(MANIFESTS[name]["path"]), "renamed")
        assert (status, problem["field"]) == (400 if status == 400 else 422, "files[0].path"), problem

    fleet.run(story())


def test_after_all_of_it_everything_is_as_it_was(fleet):
    fleet.run(fleet.unharmed())
    assert not list((fleet.folder / "cloud" / "trials").iterdir())


def test_fleetctl_says_what_the_gate_said(fleet, tmp_path):
    folder = bundle("told", programs.outside("../secret.bin")).write(tmp_path / "told")
    with pytest.raises(Exception, match="data outside the file") as caught:
        fleet.run(fleet.fleetctl("models", "publish", str(folder)))
    assert "graph.initializer" in str(caught.value)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else SLOW, id=name) for name in SMUGGLED]
)
def test_the_agent_survives_what_no_gate_saw(fleet, tmp_path, name):
    """A control plane that was taken over sends it signed and whole: the agent's own trial is what is left."""
    hostile = next(one for one in CORPUS if one.name == name)

    async def story():
        await fleet.smuggle(hostile.make(tmp_path / "sentinel"))
        await fleet.assign(hostile.name)
        failed = await fleet.reported_failure(hostile.name)
        assert failed["state"] == "failed"
        assert failed["error"]
        assert not failed["active"]
        assert failed["isolation"] in ("namespace", "seccomp", "none")
        await fleet.unharmed()
        await fleet.assign()
        await fleet.unharmed()

    fleet.run(story())
    assert not (tmp_path / "sentinel").exists()


def test_isolation_is_told_everywhere(fleet):
    async def story():
        api = await fleet.health(fleet.platform.api)
        agent = await fleet.health(fleet.platform.edge_url(EDGE))
        assert api["isolation"] in ("namespace", "seccomp", "none")
        assert agent["isolation"] == agent["reported"]["isolation"] == api["isolation"]

    fleet.run(story())


def test_a_version_that_passed_is_not_tried_again(fleet):
    """The same manifest again is answered at once: the trial is the slow part."""
    log = fleet.folder / "logs" / "cloud-core.log"

    def trials() -> int:
        return log.read_text().count('"trial passed"')

    async def story():
        good = fleet.good_bundle()
        before = trials()
        assert (await fleet.publish(good, GOOD))[0] == 201
        assert trials() == before
        status, problem = await fleet.publish(edited(good, source={"changed": "yes"}), GOOD)
        assert (status, problem["code"]) == (409, "immutable")
        assert trials() == before + 2

    fleet.run(story())
