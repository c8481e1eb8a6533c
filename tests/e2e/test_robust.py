"""What must not matter to programs: no agent, a dead, hanging or restarted one, limits, few descriptors, other users."""

import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

from harness import BUILD, DAEMON, EAGER, RDMACTL, built_program, free_port, runs_for, wait_until

EXACT = ['--connections', 8]
LONG = ['--bytes', 500 << 20]       # some seconds' worth


def start_exact(agent, *options, **more):
    return agent.spawn([built_program('exact'), '--seed', 1, '--seconds', 100, *EXACT, *options], **more)


def finish_exact(program):
    result = program.wait(110)
    assert result.out == 'ok, seed 1\n', repr(result)


def run_exact(agent, *options, **more):
    finish_exact(start_exact(agent, *options, **more))


def wait_for_rings(agent, program, at_least=20_000_000):
    """Waits until a program is in the midst of using rings."""
    if agent.plain:
        time.sleep(0.3)
        return
    wait_until(lambda: agent.ring_bytes() >= at_least or not program.running(), 'rings are used')
    assert program.running(), f'it ended before anything could be done to it: {program.result()}'


def reason(agent, name):
    return 0 if agent.plain else agent.stats()['reasons'][name]


def test_without_an_agent(agent):
    agent.stop_agent()
    for loop in ('threads', 'epoll-edge'):
        run_exact(agent, '--loop', loop)


def test_disabled_by_the_environment(agent):
    run_exact(agent, env={'RDMA_AGENT_DISABLE': 1})
    agent.expect_no_ring()


@pytest.mark.parametrize('holders', ['one', 'fork', 'split'])
@pytest.mark.parametrize('loop', ['threads', 'epoll-edge', 'poll'])
def test_agent_killed_under_load(agent, loop, holders):
    load = start_exact(agent, '--loop', loop, '--holders', holders, *LONG)
    wait_for_rings(agent, load)
    agent.kill_agent()
    finish_exact(load)


def test_agent_stopped_by_its_operator_under_load(agent):
    load = start_exact(agent, '--loop', 'epoll', *LONG)
    wait_for_rings(agent, load)
    agent.stop_agent()
    finish_exact(load)


def test_agent_hangs_under_load(agent):
    load = start_exact(agent, '--loop', 'epoll', *LONG)
    wait_for_rings(agent, load)
    agent.signal_agent(signal.SIGSTOP)
    finish_exact(load)
    agent.signal_agent(signal.SIGCONT)


@pytest.mark.parametrize('holders', ['one', 'fork', 'split'])
def test_agent_hangs_from_the_beginning(agent, holders):
    agent.signal_agent(signal.SIGSTOP)
    begin = time.monotonic()
    run_exact(agent, '--holders', holders)
    assert time.monotonic() - begin < 10
    agent.signal_agent(signal.SIGCONT)
    before = agent.ring_bytes()
    run_exact(agent, '--holders', holders, '--bytes', 64 << 20)
    agent.expect_ring(1_000_000, since=before)


@pytest.mark.parametrize('how', ['killed', 'stopped'])
def test_agent_restarted_under_a_server(agent, how):
    """A server that lived through it has its next connections upgraded by the new agent."""
    port = free_port()
    agent.serve(['redis-server', '--port', port, '--save', '', '--dir', agent.home], port)
    benchmark = ['redis-benchmark', '-p', port, '-t', 'set,get', '-n', 20000, '-c', 10, '-q']
    load = agent.spawn(['redis-benchmark', '-p', port, '-t', 'set,get', '-n', 100_000_000, '-c', 10, '-q'])
    agent.run(benchmark)
    agent.expect_ring(100_000)
    for _ in range(2):
        agent.kill_agent() if how == 'killed' else agent.stop_agent()
        agent.run(benchmark)
        agent.start_agent()
        agent.run(benchmark)
        assert load.running(), repr(load.result())
        before = agent.ring_bytes()
        assert agent.python('redis_client.py', port, 'values').out == 'ok\n'
        agent.expect_ring(1_000_000, since=before)
    load.kill()


@pytest.mark.parametrize('limits, counted', [({'sessions_per_user': 1}, 'limit_sessions'),
                                             ({'ring_memory': '1MiB'}, 'limit_memory'),
                                             ({'ring_memory_per_user': '1MiB'}, 'limit_memory')])
def test_limits(make_host, limits, counted):
    agent = make_host({**EAGER, 'limits': limits})
    for holders in ('one', 'fork'):
        run_exact(agent, '--loop', 'epoll', '--holders', holders, '--bytes', 64 << 20)
    if not agent.plain:
        assert reason(agent, counted) > 0, agent.stats()
    agent.expect_ring(100_000)


def test_limit_on_clients_and_offers(make_host):
    agent = make_host({**EAGER, 'limits': {'clients_per_user': 1, 'offers_per_user': 1}})
    for holders in ('one', 'fork', 'split'):
        run_exact(agent, '--holders', holders)


@pytest.mark.parametrize('upgrade, counted', [
    ({'enabled': False}, None),
    ({'ports': {'deny': ['1-65535']}}, 'policy_port'),
    ({'ports': {'allow': []}}, 'policy_port'),
    ({'addresses': {'deny': ['127.0.0.0/8']}}, 'policy_address'),
    ({'users': {'deny': [os.geteuid()]}}, 'policy_user'),
])
def test_policy(make_host, upgrade, counted):
    agent = make_host({'upgrade': {'after_calls': 2, **upgrade}})
    run_exact(agent, '--loop', 'poll', '--bytes', 64 << 20)
    agent.expect_no_ring()
    if counted and not agent.plain:
        assert reason(agent, counted) > 0, agent.stats()


def test_policy_changed_under_load(make_host):
    """What was refused may be offered again once the configuration allows it; a wrong one changes nothing."""
    agent = make_host({'upgrade': {'after_calls': 2, 'ports': {'deny': ['1-65535']}}})
    load = start_exact(agent, '--loop', 'poll', *LONG)
    time.sleep(0.3)
    agent.expect_no_ring()
    if not agent.plain:
        agent.config_path.write_text('{"upgrade": {"after_cals": 1}}')
        agent.expected_complaints.append('after_cals')
        with pytest.raises(AssertionError, match='after_cals'):
            agent.call('reload')
        agent.write_config(EAGER)
        agent.call('reload')
    wait_for_rings(agent, load)
    finish_exact(load)


@pytest.mark.parametrize('holders', ['one', 'fork'])
def test_few_descriptors(agent, holders):
    """The library's own descriptors do not take the program's: what does not fit stays TCP."""
    command = ['prlimit', '--nofile=64', built_program('exact'), '--seed', 1, *EXACT, '--connections', 12, '--loop', 'poll',
               '--holders', holders, '--bytes', 32 << 20]
    assert agent.run(command).out == 'ok, seed 1\n'


def test_most_descriptors_are_the_programs(agent):
    """Of the descriptors that a program may open, one upgraded connection, both of its ends, takes few."""
    counts = [int(agent.python('descriptors.py', accelerated=accelerated).out) for accelerated in (True, False)]
    assert counts[1] - 12 <= counts[0] <= counts[1], counts
    agent.expect_ring(100)


def test_little_memory(agent):
    """An address space in which mappings soon fail."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if agent.sanitized or soft != resource.RLIM_INFINITY:
        pytest.skip('sanitizers need all of the address space')
    command = ['prlimit', f'--as={60 << 20}', built_program('exact'), '--seed', 1, *EXACT, '--connections', 40,
               '--loop', 'poll', '--bytes', 8 << 20]
    assert agent.run(command).out == 'ok, seed 1\n'


def descriptors_of(pid):
    return len(list(Path(f'/proc/{pid}/fd').iterdir()))


def test_nothing_is_left_behind(agent):
    """Descriptors and sessions of agent and server are, after many connections, what they were after a few."""
    port = free_port()
    server = agent.serve(agent.python_command('echo_server.py', port, 'asyncio'), port)
    counts = []
    for _ in range(4):
        assert agent.python('echo_client.py', port, 'asyncio', 30).out == 'ok\n'
        wait_until(lambda: not agent.sessions(), 'the sessions have ended')
        time.sleep(0.2)
        counts.append((descriptors_of(server.pid), descriptors_of(agent.daemon.pid) if agent.daemon else 0))
    assert counts[1] == counts[2] == counts[3], counts
    agent.expect_ring(1_000_000)


def test_clients_killed_under_load(agent):
    port = free_port()
    server = agent.serve(['redis-server', '--port', port, '--save', '', '--dir', agent.home], port)
    for round in range(10):
        load = agent.spawn(['redis-benchmark', '-p', port, '-t', 'set,get', '-n', 100_000_000, '-c', 10, '-d', 10000, '-q'])
        if agent.plain:
            time.sleep(0.05)
        else:
            wait_until(lambda: agent.ring_bytes() > (round + 1) * 200_000 and len(agent.rings()) >= 10, 'rings are used')
        load.kill()
    assert agent.run(['redis-cli', '-p', port, 'PING']).out == 'PONG\n'
    assert server.running()
    wait_until(lambda: not agent.sessions(), 'the sessions of the killed clients have ended')
    agent.expect_ring(1_000_000)


two_users = pytest.mark.skipif(not runs_for('nobody'), reason='needs root, and a user nobody who can reach these files')


@two_users
def test_two_users(agent):
    """The server of one user, the client of another: upgraded like any, and each sees no more than its own end."""
    port = free_port()
    agent.serve(agent.python_command('echo_server.py', port, 'asyncio'), port, user='nobody')
    client = agent.spawn(agent.python_command('echo_client.py', port, 'asyncio', 60))
    if not agent.plain:
        wait_until(agent.rings, 'a ring is used')
        listed = agent.run([RDMACTL, '--runtime-dir', agent.runtime, 'list', '--json'], accelerated=False, user='nobody')
        assert {row['user'] for row in json.loads(listed.out)} <= {'nobody'}
        assert {row['user'] for row in agent.sessions()} <= {'nobody', 'root'}
    assert client.wait(60).out == 'ok\n'
    agent.expect_ring(10_000_000)


@two_users
def test_agent_of_another_user(agent):
    """Any user may run an agent of their own, for the programs of their own."""
    agent.stop_agent()
    agent.runtime = agent.home / 'of-nobody' / 'run'
    agent.runtime.parent.mkdir()
    shutil.chown(agent.runtime.parent, 'nobody')
    agent.start_agent(user='nobody')
    run_exact(agent, '--loop', 'epoll', '--bytes', 64 << 20, user='nobody')
    agent.expect_ring(1_000_000)


def test_second_agent_in_the_same_directory(agent):
    if agent.plain:
        pytest.skip('there is no first one')
    second = agent.spawn([DAEMON, '--config', agent.config_path, '--runtime-dir', agent.runtime],
                         accelerated=False, name='second')
    result = second.wait(check=False)
    assert result.code != 0 and 'already' in result.err, repr(result)
    run_exact(agent, '--loop', 'poll', '--bytes', 64 << 20)
    agent.expect_ring(1_000_000)


def test_rdmactl_agrees(agent):
    """The tools show what the tests here ask the agent for."""
    load = start_exact(agent, '--loop', 'poll', *LONG)
    wait_for_rings(agent, load)
    if not agent.plain:
        where = [RDMACTL, '--runtime-dir', agent.runtime]
        rows = json.loads(agent.run([*where, 'list', '--json'], accelerated=False).out)
        rings = [row for row in rows if row['transport'] == 'shm']
        assert rings and {row['pid'] for row in rings} == {load.pid} and {row['command'] for row in rings} == {'exact'}
        assert all(set(row) >= {'id', 'transport', 'pid', 'command', 'uid', 'local', 'remote', 'tx_bytes', 'rx_bytes'}
                   for row in rows)
        before = agent.ring_bytes()
        counted = json.loads(agent.run([*where, 'stats', '--json'], accelerated=False).out)['bytes']['rx']
        assert before <= counted <= agent.ring_bytes()
    finish_exact(load)


def test_handlers_that_open_and_close(agent):
    """A signal handler may make any of these calls in the midst of any of them."""
    result = agent.run([BUILD / 'tests' / 'e2e' / 'handlers', 3], timeout=40)
    connections, alarms = [int(word) for word in result.out.split() if word.isdigit()]
    assert connections > 50 and alarms > 100, repr(result)
