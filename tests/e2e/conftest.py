import pytest

from tests.e2e.scene import Scene, started


@pytest.fixture(scope="module", params=["amqtt", "mosquitto"])
def scene(request, tmp_path_factory):
    made = Scene(tmp_path_factory.mktemp(request.param), request.param)
    yield from started(made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and "scene" in item.funcargs:
        report.sections.append(("processes", item.funcargs["scene"].logs()))
    return report
