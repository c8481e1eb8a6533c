"""Python's own tests of sockets, selectors, asyncio and subprocesses pass and fail with the library as without it."""

import concurrent.futures
import importlib.util
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field

import pytest

from harness import BUILD, PYTHON

# What of each suite is run. Left out: tests that hang in some virtual machines whatever the library does, and one that
# takes ten seconds.
SUITES = {
    'test_socket': ['-i', '*VSOCK*'],
    'test_select': [],
    'test_poll': ['-i', '*test_poll2*'],
    'test_epoll': [],
    'test_selectors': [],
    'test_socketserver': [],
    'test_subprocess': [],
    'test_asyncio': [word for part in ('streams', 'sock_lowlevel', 'sendfile', 'server', 'buffered_proto', 'events',
                                       'selector_events', 'subprocess') for word in ('-m', f'*test_{part}*')],
    'test_httpservers': [],
    'test_telnetlib': [],
    'test_asyncore': [],
}

# Of loopback only: this suite asks before it uses any network.
RESOURCES = {'test_socketserver': ['-u', 'network']}

# As early as can be: most of these connections carry a few bytes only.
pytestmark = [
    pytest.mark.skipif('san' in BUILD.name, reason='takes long, and Python itself is not built with the sanitizer'),
    pytest.mark.skipif(importlib.util.find_spec('test.test_socket') is None,
                       reason='Python has no test suite here (Debian: libpython3-testsuite)'),
    pytest.mark.agent_config({'upgrade': {'after_calls': 1, 'after_bytes': 1}}),
    pytest.mark.timeout(300),
]


@dataclass
class Outcome:
    """How a suite ended: the results by the names of the tests, and what the program said."""
    process: object
    results: dict = field(default_factory=dict)


def run_suite(host, name, accelerated, options):
    report = host.home / f'{name}-{accelerated}-{host.counter}.xml'
    scratch = host.home / f'{name}-{accelerated}'
    scratch.mkdir(exist_ok=True)
    command = [PYTHON, '-m', 'test', '--junit-xml', report, '--tempdir', scratch, *RESOURCES.get(name, []),
               *options, name]
    outcome = Outcome(host.run(command, accelerated, timeout=200, check=False, cwd=scratch,
                               name=f'{name}-{"accelerated" if accelerated else "plain"}'))
    if report.exists():
        for case in ElementTree.parse(report).iter('testcase'):
            kinds = {child.tag for child in case} & {'skipped', 'failure', 'error'}
            outcome.results[case.get('name')] = kinds.pop() if kinds else 'passed'
    return outcome


def differences(one, other):
    return {name: (one.results.get(name), other.results.get(name)) for name in {*one.results, *other.results}
            if one.results.get(name) != other.results.get(name)}


@pytest.fixture(scope='module')
def suites(module_agent):
    """All suites, each with and without the library, at once: they sleep most of the time."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=6) as pool:
        runs = {(name, accelerated): pool.submit(run_suite, module_agent, name, accelerated, options)
                for name, options in SUITES.items() for accelerated in (True, False)}
        yield runs


@pytest.mark.parametrize('name', SUITES)
def test_suite(module_agent, suites, name):
    ours, kernel = suites[name, True].result(), suites[name, False].result()
    assert ours.results, f'no results: {ours.process}'
    different = differences(ours, kernel)
    if different:       # a test that depends on timing may fail on a busy machine: once more, alone
        chosen = [word for test in different for word in ('-m', test)]
        again = [run_suite(module_agent, name, accelerated, chosen) for accelerated in (True, False)]
        different = differences(*again)
        assert not different, f'with the library, and without: {different}\n{again[0].process}'
    assert 'passed' in ours.results.values()


def test_rings_were_used(module_agent, suites):
    for run in suites.values():
        run.result()
    module_agent.expect_ring(100000)
