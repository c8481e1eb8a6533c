"""The program: its arguments, its directory, its signals, and what remains of sessions without it."""

import os
import signal
import socket
import stat
import struct
import subprocess

import pytest

import protocol
from agent_host import DAEMON, run_daemon, wait_until, without_prefix


def test_version_and_help():
    version = run_daemon('--version')
    assert version.returncode == 0 and version.stdout.startswith('rdma-agent ') and not version.stderr
    usage = run_daemon('--help')
    assert usage.returncode == 0 and '--runtime-dir' in usage.stdout and not usage.stderr


@pytest.mark.parametrize('arguments, expected', [
    (['--nonsense'], 'unrecognized option'),
    (['--config'], 'requires an argument'),
    (['--log-level', 'loud'], 'expected error, warning, info or debug, found "loud"'),
    (['serve'], 'unexpected argument "serve"'),
])
def test_usage_errors(arguments, expected):
    result = run_daemon(*arguments)
    assert result.returncode == 2 and expected in result.stderr and '--help' in result.stderr


def test_the_directory(agent):
    status = os.stat(agent.directory)
    assert stat.S_IMODE(status.st_mode) == 0o755
    for name in 'agent.sock', 'control.sock':
        status = os.stat(os.path.join(agent.directory, name))
        assert stat.S_ISSOCK(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o666
    assert stat.S_IMODE(os.stat(os.path.join(agent.directory, 'agent.lock')).st_mode) == 0o600


def test_the_umask_does_not_matter(make_agent):
    agent = make_agent(preexec_fn=lambda: os.umask(0o077))
    assert stat.S_IMODE(os.stat(agent.directory).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(os.path.join(agent.directory, 'agent.sock')).st_mode) == 0o666


def test_a_second_agent_is_refused(agent):
    second = run_daemon('--runtime-dir', agent.directory)
    assert second.returncode == 1
    assert f'another agent, process {agent.process.pid}, serves {agent.directory} already' in second.stderr
    # And has not touched anything.
    agent.session()


def test_a_stale_socket_is_replaced(make_agent):
    agent = make_agent()
    agent.kill()
    assert os.path.exists(os.path.join(agent.directory, 'agent.sock'))
    agent.start()
    agent.session()


def test_what_is_no_socket_is_not_replaced(make_agent):
    agent = make_agent(start=False)
    os.mkdir(agent.directory)
    path = os.path.join(agent.directory, 'agent.sock')
    with open(path, 'w') as file:
        file.write('precious')
    result = run_daemon('--runtime-dir', agent.directory)
    assert result.returncode == 1 and f'{path} exists and is not a socket; remove it' in result.stderr
    with open(path) as file:
        assert file.read() == 'precious'
    os.unlink(path)


def test_bad_directories(make_agent):
    base = make_agent(start=False).base
    file = os.path.join(base, 'file')
    open(file, 'w').close()
    world = os.path.join(base, 'world')
    os.mkdir(world)
    os.chmod(world, 0o777)
    foreign = os.path.join(base, 'foreign')
    os.mkdir(foreign)
    os.chown(foreign, 65534, 65534)
    for directory, expected in [
            (file, f'{file} is not a directory; name another with --runtime-dir'),
            (os.path.join(base, 'a', 'b'), 'cannot make the runtime directory'),
            (os.path.join(base, 'x' * 120), 'the runtime directory\'s name is too long'),
            (world, 'can be written by other users: others could take the agent\'s place there'),
            (foreign, 'belongs to another user: others could take the agent\'s place there')]:
        result = run_daemon('--runtime-dir', directory)
        assert result.returncode == 1 and expected in result.stderr, directory
    os.chmod(base, 0o755)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_stopping(make_agent, number):
    agent = make_agent()
    client = agent.client()
    near, far = agent.session(client, client)
    agent.control()
    agent.process.send_signal(number)
    assert agent.process.wait(10) == 0
    assert sorted(os.listdir(agent.directory)) == ['agent.lock']
    assert client.is_dropped()
    # Sessions go on: nothing is marked, no bell rings, the memory stays.
    for index in 0, 1:
        assert near.memory.u32(near.ring(index, protocol.TX_CLOSED)) == 0
        assert near.memory.u32(near.ring(index, protocol.RX_CLOSED)) == 0
    for end in near, far:
        assert not end.was_rung()
    near.memory.map[protocol.PAGE:protocol.PAGE + 5] = b'hello'
    assert far.memory.map[protocol.PAGE:protocol.PAGE + 5] == b'hello'
    os.write(near.peer_bell, struct.pack('=Q', 1))
    assert far.was_rung()
    agent.process = None


def test_dying_leaves_sessions_alone(make_agent):
    agent = make_agent()
    near, far = agent.session()
    agent.kill()
    near.memory.map[protocol.PAGE:protocol.PAGE + 5] = b'hello'
    assert far.memory.map[protocol.PAGE:protocol.PAGE + 5] == b'hello'
    agent.start()
    # The new agent knows nothing of them, and says so.
    client = agent.client()
    tcp, _ = agent.connection()
    client.offer(1, tcp, protocol.ADOPT)
    assert client.refused() == 'agent_lost'


def test_a_log_that_nobody_reads(make_agent):
    agent = make_agent(start=False)
    reader, writer = os.pipe()
    agent.process = subprocess.Popen(agent.command, stderr=writer, stdin=subprocess.DEVNULL)
    os.close(writer)
    os.close(reader)
    open(agent.log_file, 'w').close()
    wait_until(agent.answers, 'the agent listens')
    agent.session()


def test_any_user_may_run_one(make_agent):
    agent = make_agent(start=False)
    os.chown(agent.base, 65534, 65534)

    def become_nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    agent.start(preexec_fn=become_nobody)
    assert os.stat(agent.directory).st_uid == 65534
    agent.session()
    assert DAEMON.exists()


def test_a_crowd_at_the_door(agent):
    crowd = []
    for _ in range(400):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(os.path.join(agent.directory, 'agent.sock'))
        crowd.append(connection)
    wait_until(lambda: agent.stats()['clients'] == 400, 'all are in')
    for connection in crowd:
        connection.close()
    wait_until(lambda: agent.stats()['clients'] == 0, 'all are out')


def test_slots_of_the_board_are_used_again(agent):
    first = protocol.Client(agent.directory)
    wait_until(lambda: first.mail() == 1, 'WELCOME is counted')
    slot = first.slot
    first.close()
    wait_until(lambda: agent.stats()['clients'] == 0, 'it is gone')
    second = agent.client()
    assert second.slot == slot
    # Never backwards: a slow reader must not take a new message for an old one.
    wait_until(lambda: second.mail() == 2, 'WELCOME is counted')
    third = agent.client()
    assert third.slot != slot


def test_lines_have_no_surprises(agent):
    agent.session()
    assert without_prefix(agent.log()) != agent.log()
    assert all(line.startswith('rdma-agent: ') for line in agent.log().splitlines())
