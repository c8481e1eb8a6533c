"""Network namespaces: only those that are served, and no meeting between two unless both are named."""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess

import pytest

import protocol
from agent_host import wait_until

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which('ip'), reason='needs root and the program ip')


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True, timeout=10)


@pytest.fixture
def make_namespace():
    names = []

    def make():
        name = f'rdma-test-{os.getpid()}-{len(names)}'
        ip('netns', 'add', name)
        names.append(name)
        ip('-n', name, 'link', 'set', 'lo', 'up')
        return f'/run/netns/{name}'

    yield make
    for name in names:
        subprocess.run(['ip', 'netns', 'delete', name], timeout=10)


@contextlib.contextmanager
def inside(path):
    """Sockets that are made here are of that namespace."""
    with open('/proc/self/ns/net') as home, open(path) as away:
        assert libc.setns(away.fileno(), CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


def outcome(agent, near, far):
    first, second = agent.client(), agent.client()
    first.offer(1, near)
    second.offer(1, far)
    answers = [first.answer(), second.answer()]
    return [answer.reason if isinstance(answer, protocol.Refused) else 'ring' for answer in answers]


def test_another_namespace_is_refused(agent, make_namespace):
    with inside(make_namespace()):
        pair = agent.connection()
    assert outcome(agent, *pair) == ['namespace', 'namespace']
    assert agent.stats()['reasons']['namespace'] == 2
    assert outcome(agent, *agent.connection()) == ['ring', 'ring']


def test_a_named_namespace_is_served(make_agent, make_namespace):
    path = make_namespace()
    agent = make_agent({'namespaces': [path]})
    with inside(path):
        pair = agent.connection()
    assert outcome(agent, *pair) == ['ring', 'ring']
    assert agent.call('status')['namespaces'] == [path]
    # Instead of the agent's own.
    assert outcome(agent, *agent.connection()) == ['namespace', 'namespace']


def test_namespaces_come_and_go_by_reload(make_agent, make_namespace):
    path = make_namespace()
    agent = make_agent({'namespaces': ['self']})
    client = agent.client()
    with inside(path):
        near, far = agent.connection()
    client.offer(1, near)
    assert client.refused() == 'namespace'
    agent.write_config({'namespaces': ['self', path]})
    assert agent.call('reload')['changed'] == ['namespaces']
    assert outcome(agent, near, far) == ['ring', 'ring']
    client.offer(2, near)
    client.attached().close()
    with inside(path):
        near, far = agent.connection()
    client.offer(3, near)
    wait_until(lambda: agent.stats()['offers']['waiting'] == 1, 'it waits')
    agent.write_config({})
    agent.call('reload')
    assert client.refused() == 'namespace'


def twins(agent, *places):
    """For each namespace a connection between the same two addresses and ports."""
    pairs = []
    port = None
    for place in places:
        with inside(place):
            listener = agent.keep(socket.create_server(('127.0.0.1', port or 0)))
            port = listener.getsockname()[1]
            source = pairs[0][0].getsockname() if pairs else None
            near = agent.keep(socket.create_connection(('127.0.0.1', port), source_address=source))
            pairs.append((near, agent.keep(listener.accept()[0])))
    assert len({(near.getsockname(), near.getpeername()) for near, _ in pairs}) == 1
    return pairs


def test_the_own_namespace_comes_first(make_agent, make_namespace):
    """The same addresses and ports in two namespaces that are both served: each meets its own."""
    one, two = make_namespace(), make_namespace()
    agent = make_agent({'namespaces': [one, two]})
    (near_one, far_one), (near_two, far_two) = twins(agent, one, two)
    clients = [agent.client() for _ in range(4)]
    # The far ends first. A near end meets the one of its own namespace, in either order.
    clients[0].offer(1, far_one)
    clients[1].offer(1, far_two)
    wait_until(lambda: agent.stats()['offers']['waiting'] == 2, 'both wait, and neither is stale')
    clients[2].offer(1, near_one)
    clients[3].offer(1, near_two)
    ends = [agent.keep(client.attached()) for client in clients]
    assert ends[0].session == ends[2].session != ends[1].session == ends[3].session


def test_loopback_stays_in_its_namespace(make_agent, make_namespace):
    """The halves of two connections with the same addresses, each of which is alone in its namespace: they never meet."""
    one, two = make_namespace(), make_namespace()
    agent = make_agent({'namespaces': [one, two]})
    (near_one, far_one), (_, far_two) = twins(agent, one, two)
    clients = [agent.client() for _ in range(3)]
    clients[0].offer(1, near_one)
    clients[1].offer(1, far_two)
    wait_until(lambda: agent.stats()['offers']['waiting'] == 2, 'both wait')
    clients[2].offer(1, far_one)
    ends = [agent.keep(clients[i].attached()) for i in (0, 2)]
    assert ends[0].session == ends[1].session
    assert not clients[1].has_mail(0.1)


@pytest.mark.parametrize('named', [True, False])
def test_across_a_veth_pair(make_agent, make_namespace, named):
    one, two = make_namespace(), make_namespace()
    names = [os.path.basename(path) for path in (one, two)]
    device = f'rt{os.getpid() % 100000}'
    ip('-n', names[0], 'link', 'add', device, 'type', 'veth', 'peer', 'name', device, 'netns', names[1])
    for name, address in zip(names, ('10.77.0.1/24', '10.77.0.2/24')):
        ip('-n', name, 'address', 'add', address, 'dev', device)
        ip('-n', name, 'link', 'set', device, 'up')
    agent = make_agent({'namespaces': [one, two] if named else [one]})
    with inside(two):
        listener = agent.keep(socket.create_server(('10.77.0.2', 0)))
    with inside(one):
        near = agent.keep(socket.create_connection(listener.getsockname()))
    far = agent.keep(listener.accept()[0])
    client = agent.client()
    client.offer(1, near)
    client.offer(2, far)
    if named:
        assert client.attached().session == client.attached().session
    else:
        assert client.refused() == 'namespace'
        assert not client.has_mail(0.1)
