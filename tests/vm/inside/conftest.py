"""For the cases that run in a guest: soft-RoCE and the two namespaces, once; two hosts for each case."""

import contextlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / 'e2e')]

import hosts as two_hosts  # noqa: E402
import roce  # noqa: E402


@pytest.fixture(scope='session')
def rdma():
    """A device for both hosts. Gives their addresses."""
    roce.set_up()
    return roce.ADDRESSES


@pytest.fixture(scope='session')
def namespaces(rdma):
    two_hosts.make_namespaces()


@pytest.fixture
def make_hosts(namespaces):
    """Makes the two hosts with configuration added; they end with the test."""
    with contextlib.ExitStack() as ended:
        def make(**config):
            made = []
            for name in two_hosts.NAMES:
                made.append(two_hosts.RemoteHost(name, **config))
                ended.callback(made[-1].close)
            return made

        yield make


@pytest.fixture
def hosts(make_hosts):
    return make_hosts()
