import pytest

from tests.e2e.scene import started
from tests.hostile.fleet import Fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    yield from started(made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and "fleet" in item.funcargs:
        report.sections.append(("processes", item.funcargs["fleet"].logs()))
    return report
