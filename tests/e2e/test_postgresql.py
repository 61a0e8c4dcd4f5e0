"""The platform on PostgreSQL and Mosquitto, as it is deployed: it converges, and again after deaths, the database's too."""

import pytest

from tests.cloud_core import postgres
from tests.e2e.scene import Scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with postgres.cluster() as cluster:
        made = Scene(tmp_path_factory.mktemp("postgresql"), "mosquitto", database_url=cluster.url(cluster.create()))
        try:
            made.run(made.start())
            yield made
        except BaseException:
            print(made.logs())
            raise
        finally:
            made.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("child", "deadline"), [("api", 1001), ("loops", 1002), ("gateway", 1003), ("replica-0", 1004)]
)
def test_a_death_on_postgresql(scene, child, deadline):
    async def story():
        await scene.kill_child(child)
        await scene.edges_answer()
        await scene.up()
        await scene.change_policy(deadline)
        await scene.gateway_answers()

    scene.run(story())
