"""Options and fixtures for all the Python tests. `e2e/harness.py` says what a host is."""

import contextlib
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / 'e2e'))

import harness  # noqa: E402


def pytest_addoption(parser):
    parser.addoption('--plain', action='store_true',
                     help='run the programs of the end-to-end tests without agent and library, over plain TCP')
    parser.addoption('--hostile-seconds', type=float, default=4, help='how long hostile neighbours go on')
    parser.addoption('--sessions', type=int, default=3000, help='how many sessions come and go in the test for leaks')
    parser.addoption('--seed', default=None, help='repeat the random choices of an earlier run')


def pytest_configure(config):
    if config.getoption('--seed') is None:
        config.option.seed = str(random.randrange(1 << 30))


def pytest_report_header(config):
    return f'random choices: --seed {config.getoption("--seed")}'


@pytest.fixture
def chance(request):
    """Random numbers that --seed repeats, for this test alone or among others."""
    return random.Random(f'{request.config.getoption("--seed")} {request.node.nodeid.split("/")[-1]}')


@pytest.fixture(scope='session')
def plain(request):
    """Whether the programs run without the library."""
    return request.config.getoption('--plain')


@contextlib.contextmanager
def _host(plain, config):
    host = harness.Host(plain, config)
    try:
        yield host
    finally:
        host.close()


def _config_of(node):
    marker = node.get_closest_marker('agent_config')
    return marker.args[0] if marker else None


@pytest.fixture
def agent(request, plain):
    """A host with an agent of its own, for one test."""
    with _host(plain, _config_of(request.node)) as host:
        yield host


@pytest.fixture(scope='module')
def module_agent(request, plain):
    """A host with an agent that the tests of one module share."""
    with _host(plain, _config_of(request.node)) as host:
        yield host


@pytest.fixture
def make_host(plain):
    """Makes hosts with the configurations given; they end with the test."""
    with contextlib.ExitStack() as hosts:
        yield lambda config=None: hosts.enter_context(_host(plain, config))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows what the programs of a failed test said, before their directory goes."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for host in harness.open_hosts:
            report.sections += host.logs()
