"""Unmodified programs on two hosts, over real verbs."""

import json
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

import harness
import test_postgres as postgres
from harness import wait_until

PORT = 7000
MEBIBYTE = 1 << 20


class Exact:
    """tests/e2e/exact in two programs: the server on one host, the clients on the other; every byte is checked."""

    def __init__(self, server, client, size, *options, connections=4, holders='one', loop='epoll', port=PORT):
        common = [harness.built_program('exact'), '--seed', 1, '--connections', connections, '--loop', loop,
                  '--holders', holders, '--seconds', 60,
                  '--address', server.address, '--port', port, '--client-ports', port + 1000,
                  '--bytes', size, *options]
        self.server = server.serve([*common, '--role', 'server'], port)
        self.client = client.spawn([*common, '--role', 'client'])

    def finish(self):
        for program in (self.client, self.server):
            result = program.wait(70)
            assert result.out == 'ok, seed 1\n', repr(result)


def expect_rdma(*hosts):
    wait_until(lambda: all(host.rdma_sessions() for host in hosts), 'a session over RDMA is listed on both hosts')


def connect(*hosts):
    """Has the link up, so that it is not made while a short test is over already."""
    hosts[0].call('peers.connect')
    wait_until(lambda: all(host.link()['state'] == 'up' for host in hosts), 'the link is up')


def expect_bytes(host, at_least, since=0):
    host.expect_ring(at_least, since)


def test_both_agents_are_well(hosts):
    for host in hosts:
        text = host.run([harness.RDMACTL, '--runtime-dir', host.runtime, 'doctor'], accelerated=False, check=False).out
        print(text)
        assert 'RDMA device rxe0, port 1 (Ethernet) is active' in text and '\nfail' not in text


@pytest.mark.parametrize('holders', ['one', 'fork', 'split'])
def test_every_byte(hosts, holders):
    connect(*hosts)
    before = [host.ring_bytes() for host in hosts]
    Exact(*hosts, 8 * MEBIBYTE, holders=holders).finish()
    for host, since in zip(hosts, before):
        expect_bytes(host, MEBIBYTE, since)


def test_short_connections(make_hosts):
    """Streams of a few bytes, which often end while their upgrade is under way."""
    a, b = make_hosts(upgrade={'after_calls': 1})
    for loop in 'threads', 'epoll-edge':
        Exact(b, a, 3000, connections=40, loop=loop).finish()


def ping_pong(host, port, *options):
    command = [harness.BUILD / 'examples/pingpong-client', '--host', host.peer_address, '--port', port, '--json']
    return json.loads(host.run([*command, *options]).out)


def test_it_is_rdma(hosts):
    a, b = hosts
    b.serve([harness.BUILD / 'examples/pingpong-server', '--host', b.address, '--port', PORT], PORT)
    client = a.spawn([harness.BUILD / 'examples/pingpong-client', '--host', b.address, '--port', PORT, '--seconds', 2])
    expect_rdma(a, b)
    assert a.link()['state'] == b.link()['state'] == 'up' and a.link()['device'] == 'rxe0'
    client.wait()


def test_a_forking_server(hosts):
    a, b = hosts
    before = a.ring_bytes()
    b.serve([harness.BUILD / 'examples/forking-pingpong-server', '--host', b.address, '--port', PORT], PORT)
    for size in 64, 100_000:
        assert ping_pong(a, PORT, '--size', size, '--count', 200, '--warmup', 300)['round_trips'] == 200
    expect_bytes(a, 200 * 100_000, before)


def test_redis(hosts):
    a, b = hosts
    before = a.ring_bytes()
    b.serve(['redis-server', '--port', PORT, '--bind', b.address, '--protected-mode', 'no', '--dir', b.home,
             '--save', ''], PORT)
    result = a.run(['redis-benchmark', '-h', b.address, '-p', PORT, '--csv', '-t', 'set,get,lrange_100', '-n', 2000,
                    '-c', 4, '-r', 10])
    rates = re.findall(r'^"([^"]+)","([\d.]+)"', result.out, re.MULTILINE)
    assert len(rates) >= 3 and min(float(rate) for _, rate in rates) > 0, repr(result)
    expect_bytes(a, 100_000, before)


@pytest.fixture(scope='module')
def database():
    """Made once, which takes a while here."""
    directory = Path(tempfile.mkdtemp(prefix='rdma-vm-pg-'))
    shutil.chown(directory, postgres.USER)
    command = [postgres.BIN / 'initdb', '-D', directory / 'data', '-U', 'postgres', '--auth=trust', '--no-sync', '-E',
               'UTF8', '--locale=C.UTF-8']
    subprocess.run(harness.as_user(postgres.USER) + command, check=True, stdout=subprocess.DEVNULL, cwd=directory)
    with open(directory / 'data/pg_hba.conf', 'a') as access:
        access.write('host all all 10.8.0.0/24 trust\n')
    return directory / 'data'


def test_postgres(hosts, database):
    a, b = hosts
    before = a.ring_bytes()
    server = b.serve([postgres.BIN / 'postgres', '-D', database, '-p', PORT, '-k', database, '-h', b.address], PORT,
                     user=postgres.USER)
    where = ['-h', b.address, '-p', PORT, '-U', 'postgres']
    psql = ['psql', '-X', '-A', '-t', *where, '-v', 'ON_ERROR_STOP=1', 'postgres']
    wait_until(lambda: a.run([*psql, '-c', 'SELECT 1'], accelerated=False, check=False).code == 0, 'PostgreSQL answers')
    statements = [f"SELECT {i} * {i}, repeat('{i} ', {i % 50});" for i in range(200)]
    expected = [f'{i * i}|' + f'{i} ' * (i % 50) for i in range(200)]
    assert a.run(psql, input='\n'.join(statements)).out.splitlines() == expected
    # Its own tables take long to fill here.
    a.run([*psql, '-c', 'CREATE TABLE counted (client int, n int)'])
    transaction = a.home / 'transaction.sql'
    transaction.write_text('BEGIN; INSERT INTO counted VALUES (:client_id, 1); SELECT sum(n) FROM counted; END;\n')
    result = a.run([postgres.BIN / 'pgbench', *where, '-n', '-c', 2, '-t', 50, '-M', 'prepared', '-f', transaction,
                    'postgres'])
    assert 'number of failed transactions: 0 ' in result.out and 'processed: 100/100' in result.out, repr(result)
    assert a.run([*psql, '-c', 'SELECT sum(n) FROM counted']).out == '100\n'
    expect_bytes(a, 20_000, before)
    server.stop(signal.SIGINT)


# Says a few things to and fro, which upgrades the connection, then closes with much in flight. "last" ends the stream.
CLOSER = '''
import socket, sys
connection, _ = socket.create_server((sys.argv[1], int(sys.argv[2]))).accept()
for _ in range(200):
    connection.sendall(connection.recv(1))
connection.sendall(bytes(int(sys.argv[3])) + b"last")
connection.close()
'''

SLOW_READER = '''
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for _ in range(200):
    connection.sendall(b"x")
    assert connection.recv(1) == b"x"
    time.sleep(0.01)
time.sleep(1)
got = b""
while piece := connection.recv(100000):
    got += piece
print(len(got), got[-4:].decode())
'''


@pytest.mark.parametrize('size', [1000, 3_000_000])
def test_closing_with_data_in_flight(hosts, size):
    a, b = hosts
    connect(a, b)
    b.serve([harness.PYTHON, '-c', CLOSER, b.address, PORT, size], PORT)
    assert a.run([harness.PYTHON, '-c', SLOW_READER, b.address, PORT]).out == f'{size + 4} last\n'
    expect_bytes(a, 1000)


def test_a_killed_server(hosts):
    """Its client's connection ends as TCP would end it, and soon."""
    a, b = hosts
    server = b.serve([harness.BUILD / 'examples/pingpong-server', '--host', b.address, '--port', PORT], PORT)
    client = a.spawn([harness.BUILD / 'examples/pingpong-client', '--host', b.address, '--port', PORT, '--seconds', 60])
    expect_rdma(a, b)
    server.kill()
    result = client.wait(10, check=False)
    assert result.code == 1 and ('closed the connection' in result.err or 'reset' in result.err), repr(result)
    wait_until(lambda: not a.sessions() and not b.sessions(), 'nothing is left of it')


def test_a_killed_client(hosts):
    a, b = hosts
    server = b.serve([harness.BUILD / 'examples/pingpong-server', '--host', b.address, '--port', PORT, '--clients', 2],
                     PORT)
    client = a.spawn([harness.BUILD / 'examples/pingpong-client', '--host', b.address, '--port', PORT, '--seconds', 60])
    expect_rdma(a, b)
    client.kill()
    # It serves one after the other.
    assert ping_pong(a, PORT, '--count', 100)['round_trips'] == 100
    server.wait()


@pytest.mark.parametrize('which', [0, 1])
def test_a_killed_agent(hosts, which):
    """The transfer goes on over TCP, complete; new connections are upgraded when the agent is back."""
    exact = Exact(*hosts, 16 * MEBIBYTE)
    expect_rdma(*hosts)
    hosts[which].kill_agent()
    exact.finish()
    hosts[which].start_agent()
    before = hosts[which].ring_bytes()
    wait_until(lambda: hosts[1 - which].link()['state'] != 'up', 'the other has noticed')
    Exact(*hosts, 4 * MEBIBYTE, port=PORT + 1).finish()
    expect_bytes(hosts[which], MEBIBYTE, before)


def test_wrong_keys_leave_tcp(make_hosts):
    a, b = make_hosts()
    (a.home / 'key').write_text('not the key of the other host at all\n')
    a.call('reload')
    a.expected_complaints = b.expected_complaints = ['']
    Exact(a, b, MEBIBYTE).finish()
    assert a.ring_bytes() == b.ring_bytes() == 0
    assert a.link()['state'] != 'up'
