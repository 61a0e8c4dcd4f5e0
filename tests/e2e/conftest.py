import pytest

from tests.e2e.scene import Scene


@pytest.fixture(scope="module", params=["amqtt", "mosquitto"])
def scene(request, tmp_path_factory):
    made = Scene(tmp_path_factory.mktemp(request.param), request.param)
    try:
        made.run(made.start())
        yield made
    except BaseException:
        print(made.logs())
        raise
    finally:
        made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and "scene" in item.funcargs:
        report.sections.append(("processes", item.funcargs["scene"].logs()))
    return report
