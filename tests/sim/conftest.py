"""The fixtures of these tests; two_hosts.py has what they give."""

import contextlib
import os
import shutil
import tempfile

import pytest

import sim_hosts
import two_hosts


@pytest.fixture(scope='session')
def network():
    reason = two_hosts.why_not()
    if reason:
        pytest.skip(reason)
    made = two_hosts.Network()
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.fixture
def make_sim(network):
    """Makes an agent, not started: make_sim('db1', 0) at the first place. All are ended, and judged, after the test."""
    agents = []

    def make(name, place, **more):
        directory = tempfile.mkdtemp(prefix='rdma-sim-')
        os.chmod(directory, 0o755)
        agents.append(two_hosts.SimAgent(directory, name, network.places[place], **more))
        return agents[-1]

    try:
        yield make
        for agent in agents:
            agent.close()
    finally:
        for agent in agents:
            print(f'--- {agent.name}\n{agent.log()}')     # shown if the test failed
            if agent.process:
                agent.kill()
            shutil.rmtree(agent.base, ignore_errors=True)


@pytest.fixture
def pair(make_sim):
    """Two hosts that are each other's peers, not started yet."""
    one, two = make_sim('db1', 0), make_sim('db2', 1)
    one.configure(one.peer_of(two))
    two.configure(two.peer_of(one))
    return one, two


@pytest.fixture
def running(pair):
    for agent in pair:
        agent.start()
    return pair


@pytest.fixture
def make_hosts(network, plain):
    """Makes two hosts with programs: make_hosts(rings={'bytes': 16384}), what both agents' configuration has besides."""
    with contextlib.ExitStack() as stack:
        def make(**config):
            made = sim_hosts.Hosts(plain, network, **config)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def hosts(make_hosts):
    return make_hosts()
