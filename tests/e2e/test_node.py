"""Node.js: libuv's edge- and level-triggered epoll, its closing by syscall(), its passing of connections."""

import shutil

import pytest

from harness import PROGRAMS, free_port

pytestmark = pytest.mark.skipif(not shutil.which('node'), reason='node is not installed')


@pytest.mark.parametrize('uring', [0, 1], ids=['plain-epoll', 'epoll-by-io_uring'])
def test_sockets(agent, uring):
    port, env = free_port(), {'UV_USE_IO_URING': uring}
    agent.serve(['node', PROGRAMS / 'node_net.js', 'server', port], port, env=env)
    assert agent.run(['node', PROGRAMS / 'node_net.js', 'client', port, 10], env=env).out == 'ok\n'
    agent.expect_ring(10_000_000)


@pytest.mark.parametrize('kind', [[], ['cluster']], ids=['single', 'cluster'])
def test_http(agent, kind):
    port = free_port()
    agent.serve(['node', PROGRAMS / 'node_http.js', 'server', port, *kind], port)
    assert agent.run(['node', PROGRAMS / 'node_http.js', 'client', port]).out == 'ok\n'
    # A connection that is sent to a worker is upgraded once the worker is the only one that has it.
    agent.expect_ring(1_000_000 if kind else 10_000_000)


def test_python_client(agent):
    """Two programs of different kinds, and a client that ends its half first."""
    port = free_port()
    agent.serve(['node', PROGRAMS / 'node_net.js', 'server', port], port)
    for style in ('blocking', 'asyncio'):
        assert agent.python('echo_client.py', port, style, 10).out == 'ok\n'
    agent.expect_ring(10_000_000)
