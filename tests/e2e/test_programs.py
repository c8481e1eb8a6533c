"""Smaller programs: memcached, iperf3, sockperf, socat, the shell, and children that inherit or are given sockets."""

import json
import os
import re

import pytest

from harness import PROGRAMS, free_port, is_root


def test_memcached(agent):
    port = free_port()
    command = ['memcached', '-p', port, '-l', '127.0.0.1', '-U', 0, '-I', '16m', '-m', 256, '-t', 2]
    agent.serve(command + (['-u', 'nobody'] if is_root() else []), port)
    assert agent.python('memcached_client.py', port).out == 'ok\n'
    agent.expect_ring(50_000_000)


@pytest.mark.parametrize('options', [[], ['-R'], ['--bidir'], ['-P', 4], ['-P', 4, '-R'], ['-l', 200, '-n', '64M'],
                                     ['-l', '1M', '-n', '2G', '-6'], ['-Z']],
                         ids=['forth', 'back', 'both', 'four', 'four-back', 'small', 'ipv6', 'zerocopy'])
def test_iperf3(agent, options):
    """-Z sends with sendfile()."""
    port = free_port()
    server = agent.serve(['iperf3', '-s', '-1', '-p', port], port)
    where = ['-c', '::1' if '-6' in options else '127.0.0.1', '-p', port, '-J']
    result = agent.run(['iperf3', *where, *(['-t', 1] if '-n' not in options else []), *options])
    report = json.loads(result.out)
    assert 'error' not in report, report['error']
    sent, received = report['end']['sum_sent']['bytes'], report['end']['sum_received']['bytes']
    assert sent >= received > 1e6, repr(result)
    assert server.wait().code == 0
    agent.expect_ring(1_000_000)


@pytest.mark.parametrize('wait', ['recvfrom', 'epoll'])
def test_sockperf(agent, wait):
    ports = [free_port() for _ in range(1 if wait == 'recvfrom' else 3)]
    feed = agent.home / 'feed'
    feed.write_text(''.join(f'T:127.0.0.1:{port}\n' for port in ports))
    how = ['-f', feed, '-F', wait[0]] if wait != 'recvfrom' else ['-i', '127.0.0.1', '-p', ports[0], '--tcp']
    agent.serve(['sockperf', 'server', *how], ports[-1])
    result = agent.run(['sockperf', 'ping-pong', *how, '-t', 1, '-m', 64,
                        '--mps', 100000])      # unlimited, it stops at 600,000 a second, being out of numbers
    assert '# dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0' in result.out
    assert int(re.search(r'Valid Duration\].*ReceivedMessages=(\d+)', result.out).group(1)) > 100
    agent.expect_ring(10000)


def test_sockperf_throughput(agent):
    port = free_port()
    agent.serve(['sockperf', 'server', '-i', '127.0.0.1', '-p', port, '--tcp'], port)
    result = agent.run(['sockperf', 'throughput', '-i', '127.0.0.1', '-p', port, '--tcp', '-t', 1, '-m', 1400])
    assert int(re.search(r'Message Rate is (\d+)', result.out).group(1)) > 100
    agent.expect_ring(100000)


def test_socat(agent):
    """socat as the server forks, and starts a program that talks to it through a socket pair."""
    port = free_port()
    agent.serve(['socat', f'TCP-LISTEN:{port},fork,reuseaddr', 'EXEC:cat'], port)
    assert agent.python('echo_client.py', port, 'blocking', 4).out == 'ok\n'
    agent.expect_ring(1_000_000)


def test_socat_copies_a_file(agent):
    port, content = free_port(), os.urandom(20_000_000)
    (agent.home / 'sent').write_bytes(content)
    server = agent.serve(['socat', '-u', f'TCP-LISTEN:{port}', f'CREATE:{agent.home}/received'], port)
    agent.run(['socat', '-u', f'FILE:{agent.home}/sent', f'TCP:127.0.0.1:{port}'])
    assert server.wait().code == 0
    assert (agent.home / 'received').read_bytes() == content


def test_shell(agent):
    port = free_port()
    agent.serve(agent.python_command('echo_server.py', port, 'threading'), port)
    assert agent.run(['bash', PROGRAMS / 'shell.sh', port]).out == 'ok\n'
    # That it used a ring is not asked for: the shell writes by stdio, and its children, who have the connection with it,
    # each by themselves, and in between there is seldom time for a session.


def test_children(agent):
    assert agent.python('children.py').out == 'ok\n'
    agent.expect_ring(100_000)


@pytest.mark.parametrize('when', ['fresh', 'upgraded'])
def test_passed_descriptors(agent, when):
    assert agent.python('passing.py', when).out == 'ok\n'
    agent.expect_ring(1_000_000)
