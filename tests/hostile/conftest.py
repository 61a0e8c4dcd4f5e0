import pytest

from tests.hostile.fleet import Fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    made = Fleet(tmp_path_factory.mktemp("fleet"))
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
    if report.failed and "fleet" in item.funcargs:
        report.sections.append(("processes", item.funcargs["fleet"].logs()))
    return report
