"""Unmodified programs on two hosts: their connections move to RDMA, and every byte arrives."""

import os
import subprocess
import sys
from pathlib import Path

import agent_host
import harness
import pytest
from agent_host import wait_until

LIBRARY = agent_host.BUILD / 'librdma-preload.so'
TALK = Path(__file__).resolve().parent / 'programs' / 'talk.py'
PORT = 9100


@pytest.fixture
def talkers():
    """Programs under the library at the place of an agent; ended after the test, however it ends."""
    processes = []

    def start(agent, *arguments):
        environment = dict(os.environ, LD_PRELOAD=harness.preload_of(LIBRARY), RDMA_AGENT_DIR=str(agent.directory),
                           ASAN_OPTIONS=harness.ASAN_UNDER_LIBRARY)
        command = [*agent.place.enter, sys.executable, str(TALK), *map(str, arguments)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def talk(talkers, client_host, server_host, connections, size):
    """Returns the two programs, once the server listens."""
    server = talkers(server_host, 'server', PORT, connections, size)
    assert server.stdout.readline() == 'ready\n'
    return server, talkers(client_host, 'client', server_host.place.address, PORT, connections, size)


def expect_ok(*programs):
    for program in programs:
        out, _ = program.communicate(timeout=60)
        assert (program.returncode, out) == (0, 'ok\n')


def no_sessions(agent):
    return agent.stats()['sessions']['rdma'] == 0 and agent.link()['sessions'] == 0


@pytest.mark.parametrize('connections, size', [(1, 20_000_000), (20, 2_000_000), (100, 3000)])
def test_every_byte_arrives(running, talkers, connections, size):
    one, two = running
    one.connect()
    wait_until(one.is_up, 'the link is up')
    expect_ok(*talk(talkers, one, two, connections, size))
    for agent in running:
        wait_until(lambda agent=agent: no_sessions(agent), 'all sessions are over')
        if size > 1_000_000:    # short ones may be over before they are accelerated; on a busy machine, others, too
            assert connections // 2 < agent.stats()['sessions']['total'] <= connections
            assert agent.stats()['bytes']['rx'] >= connections * size // 4
    assert one.stats()['bytes']['tx'] == two.stats()['bytes']['rx']
    assert one.stats()['bytes']['rx'] == two.stats()['bytes']['tx']


def test_the_link_comes_up_when_it_is_needed(running, talkers):
    """The first connection finds no link, and stays TCP until there is one."""
    one, two = running
    programs = talk(talkers, one, two, 2, 100_000_000)
    wait_until(lambda: len([row for row in one.rows() if row['transport'] == 'rdma']) == 2, 'both are accelerated')
    expect_ok(*programs)


def test_a_peer_that_is_configured_later(make_sim, talkers):
    """Offers that wait meet their other half all the same."""
    one, two = make_sim('db1', 0), make_sim('db2', 1)
    for agent in (one, two):
        agent.configure()
        agent.start()
    # They are offered when there are no peers, and talk on for long enough.
    programs = talk(talkers, one, two, 2, 50_000_000)
    wait_until(lambda: len(one.rows()) == 2 and len(two.rows()) == 2, 'both are offered on both hosts')
    for agent, other in ((one, two), (two, one)):
        agent.configure(agent.peer_of(other))
        agent.call('reload')
    wait_until(lambda: one.stats()['sessions']['total'] == 2, 'both are accelerated')
    expect_ok(*programs)


def test_rings_of_different_sizes(pair, talkers):
    """The smaller of both counts."""
    one, two = pair
    one.configure(one.peer_of(two), rings={'bytes': 65536})
    two.configure(two.peer_of(one), rings={'bytes': 1 << 20})
    for agent in pair:
        agent.start()
    one.connect()
    wait_until(one.is_up, 'the link is up')
    programs = talk(talkers, one, two, 1, 50_000_000)
    for agent in pair:
        [row] = wait_until(lambda agent=agent: [row for row in agent.rows() if row['transport'] == 'rdma'], 'it is there')
        assert row['ring_bytes'] == 65536
    expect_ok(*programs)


def test_registered_memory_is_bounded(pair, talkers):
    """Connections beyond the bound stay TCP, on both hosts."""
    one, two = pair
    one.configure(one.peer_of(two), rings={'bytes': 65536})
    two.configure(two.peer_of(one), rings={'bytes': 65536}, rdma={'registered_memory': '512KiB'})
    for agent in pair:
        agent.start()
    one.connect()
    wait_until(one.is_up, 'the link is up')
    expect_ok(*talk(talkers, one, two, 8, 10_000_000))
    for agent in pair:
        wait_until(lambda agent=agent: no_sessions(agent), 'all sessions are over')
        assert agent.stats()['reasons']['limit_memory'] > 0      # whichever of the two matches offers
    assert 0 < one.stats()['bytes']['tx'] < 80_000_000
