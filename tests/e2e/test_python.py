"""Servers and clients in Python: asyncio, threads, forks, select, poll, epoll."""

import pytest

from harness import free_port

STYLES = ['asyncio', 'threading', 'files', 'forking', 'select', 'poll', 'selectors']


@pytest.mark.parametrize('client', ['blocking', 'asyncio'])
@pytest.mark.parametrize('server', STYLES)
def test_echo(agent, server, client):
    port = free_port()
    agent.serve(agent.python_command('echo_server.py', port, server), port)
    assert agent.python('echo_client.py', port, client, 12).out == 'ok\n'
    agent.expect_ring(10_000_000)


def test_hundreds_of_connections(agent):
    port = free_port()
    agent.serve(agent.python_command('echo_server.py', port, 'asyncio'), port)
    assert agent.python('echo_client.py', port, 'asyncio', 150, timeout=90).out == 'ok\n'
    agent.expect_ring(100_000_000)
