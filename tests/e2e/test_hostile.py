"""Neighbours in bad faith: they harm themselves, not those who talk to them, nor others, nor the agent.

Short runs. Longer ones: pytest tests/e2e/test_hostile.py --hostile-seconds 600.
"""

import os
import shutil
import time
from pathlib import Path

import pytest

from harness import RDMACTL, built_program, free_port, is_root, user_exists, wait_until

CLIENTS = 4


@pytest.fixture
def seconds(request):
    return request.config.getoption('--hostile-seconds')


def memory_of(pid):
    """Resident memory, in bytes."""
    return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def descriptors_of(pid):
    return len(os.listdir(f'/proc/{pid}/fd'))


def check_honest_clients(agent, ports):
    """Connections that know nothing of all this, byte by byte."""
    for port in ports:
        assert agent.python('echo_client.py', port, 'blocking', CLIENTS).out == 'ok\n'


def spawn_stranger(agent, *arguments):
    """A hostile program, of another user if we can."""
    program = agent.home / 'hostile'
    if not program.exists():
        shutil.copy(built_program('hostile'), program)
    user = 'nobody' if is_root() and user_exists('nobody') else None
    return agent.spawn([program, *arguments], accelerated=False, name=arguments[0], user=user)


def agent_is_well(agent):
    """It answers, quickly."""
    began = time.monotonic()
    agent.stats()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize('attackers', [1, 3])
def test_hostile_end(agent, chance, attackers, seconds):
    """Whoever owns the other end of a session writes what it likes into all that it can reach."""
    if agent.plain:
        pytest.skip('there is nothing to reach')
    agent.hostile_clients = True
    ports = [free_port(), free_port()]
    server = agent.serve([built_program('hostile'), 'serve', *ports], ports[1])
    check_honest_clients(agent, ports)
    attacks = [spawn_stranger(agent, 'attack', agent.runtime, *ports, seconds, chance.randrange(1 << 40))
               for _ in range(attackers)]
    while any(attack.running() for attack in attacks):
        check_honest_clients(agent, ports)
        agent_is_well(agent)
    for attack in attacks:
        result = attack.wait(60)
        assert not result.out.splitlines()[-1].startswith('0 sessions'), f'nothing was attacked: {result}'
    check_honest_clients(agent, ports)
    agent.expect_ring(1_000_000)
    ended = server.stop(timeout=40)
    assert ended.code == 0, repr(ended)
    wait_until(lambda: not agent.sessions(), 'no session is left')


def test_babble(agent, chance, seconds):
    """The agent's sockets hear all sorts of things."""
    if agent.plain:
        pytest.skip('there is no agent')
    agent.hostile_clients = True
    ports = [free_port(), free_port()]
    agent.serve([built_program('hostile'), 'serve', *ports], ports[1])
    check_honest_clients(agent, ports)
    descriptors, memory = descriptors_of(agent.daemon.pid), memory_of(agent.daemon.pid)
    babble = spawn_stranger(agent, 'babble', agent.runtime, seconds, chance.randrange(1 << 40))
    while babble.running():
        check_honest_clients(agent, ports)
        agent_is_well(agent)
    babble.wait(60)
    agent.expect_ring(1_000_000)
    wait_until(lambda: descriptors_of(agent.daemon.pid) <= descriptors + 40, 'the agent lets go of what it was sent')
    grown = memory_of(agent.daemon.pid) - memory
    assert grown < (600 << 20 if agent.sanitized else 20 << 20), f'the agent grew by {grown} bytes'
    assert agent.run([RDMACTL, '--runtime-dir', agent.runtime, 'list'], accelerated=False).code == 0
