"""The control socket: JSON-RPC, who may ask what, and connections that misbehave."""

import json
import os
import socket
import time

import pytest

import protocol
from agent_host import wait_until
from test_limits import NOBODY, as_user


@pytest.mark.parametrize('line, code, expected', [
    (b'nonsense', -32700, 'expected one JSON object in a line'),
    (b'', -32700, 'expected one JSON object in a line'),
    (b'{"jsonrpc": "2.0"', -32700, 'expected one JSON object in a line'),
    (b'\xff\xfe', -32700, 'expected one JSON object in a line'),
    (b'{"id": 1, "id": 2, "jsonrpc": "2.0", "method": "list"}', -32700, 'duplicate'),
    (b'[]', -32600, 'expected an object'),
    (b'[{"jsonrpc": "2.0", "id": 1, "method": "list"}]', -32600, 'expected an object'),
    (b'{"jsonrpc": "2.0", "id": {}, "method": "list"}', -32600, 'expected an object with an id'),
    (b'{"jsonrpc": "1.0", "id": 1, "method": "list"}', -32600, 'expected {"jsonrpc": "2.0"'),
    (b'{"id": 1, "method": "list"}', -32600, 'expected {"jsonrpc": "2.0"'),
    (b'{"jsonrpc": "2.0", "id": 1}', -32600, 'expected {"jsonrpc": "2.0"'),
    (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', -32600, 'expected {"jsonrpc": "2.0"'),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "lists"}', -32601, 'no method "lists"'),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "list", "params": []}', -32602, 'list: expected an object as params'),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "list", "params": {"all": 1}}', -32602, 'list: takes no params, found "all"'),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "limit.set", "params": {"no": 1}}', -32602, 'limits.no: unknown key'),
])
def test_errors(agent, line, code, expected):
    control = agent.control()
    answer = control.raw(line + b'\n')
    assert answer['jsonrpc'] == '2.0' and set(answer) == {'jsonrpc', 'id', 'error'}
    assert answer['error']['code'] == code and expected in answer['error']['message']
    assert answer['id'] == (1 if code in (-32601, -32602) or b'1.0' in line or b'{"id": 1, "m' in line
                            or line.endswith((b'"id": 1}', b'5}')) else None)
    assert control.call('list') == {'sessions': []}, 'the connection is of no more use'


def test_ids_come_back(agent):
    control = agent.control()
    for number in 7, -1, 1.5, 'seven', '':
        request = {'jsonrpc': '2.0', 'id': number, 'method': 'list'}
        assert control.raw(json.dumps(request).encode() + b'\n')['id'] == number


def test_notifications_are_not_answered(agent):
    control = agent.control()
    control.socket.sendall(b'{"jsonrpc": "2.0", "method": "limit.set", "params": {"sessions_per_user": 3}}\n'
                           b'{"jsonrpc": "2.0", "method": "limit.set", "params": {"sessions_per_user": "x"}}\n')
    assert control.call('limit.get')['limits']['sessions_per_user'] == 3


def test_lines_come_in_any_pieces(agent):
    control = agent.control()
    line = b'{"jsonrpc": "2.0", "id": 1, "method": "list"}\n'
    for byte in line:
        control.socket.sendall(bytes([byte]))
        time.sleep(0.001)
    assert control.read()['id'] == 1
    control.socket.sendall(line * 100 + line[:10])
    for _ in range(100):
        assert control.read()['result'] == {'sessions': []}
    control.socket.sendall(line[10:])
    assert control.read()['id'] == 1


def test_a_line_without_end(agent):
    control = agent.control()
    control.socket.sendall(b'x' * 65536)
    assert control.read()['error'] == {'code': -32600, 'message': 'expected a line of less than 65536 bytes'}
    assert control.read() is None
    wait_until(lambda: agent.stats(), 'the agent goes on')


def test_the_longest_line(agent):
    control = agent.control()
    line = b'{"jsonrpc": "2.0", "id": 1, "method": "list"}'
    assert control.raw(line + b' ' * (65535 - len(line)) + b'\n')['id'] == 1


def test_the_last_line_counts_before_the_end(agent):
    control = agent.control()
    control.socket.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "list"}\n')
    control.socket.shutdown(socket.SHUT_WR)
    assert control.read()['id'] == 1 and control.read() is None


def test_one_who_does_not_read_holds_nobody_up(agent):
    lazy = agent.control()
    lazy.socket.setblocking(False)
    line = b'{"jsonrpc": "2.0", "id": 1, "method": "status"}\n'
    with pytest.raises(BlockingIOError):
        while True:
            lazy.socket.send(line * 1000)
    before = time.monotonic()
    agent.session()
    assert agent.stats()['clients'] == 2 and time.monotonic() - before < 5
    agent.settle()
    with open(f'/proc/{agent.process.pid}/statm') as file:
        assert int(file.read().split()[1]) * 4096 < 64 << 20


def test_connections_are_limited(agent):
    crowd = [agent.keep(socket.socket(socket.AF_UNIX)) for _ in range(40)]
    for connection in crowd:
        connection.settimeout(5)
        connection.connect(os.path.join(agent.directory, 'control.sock'))
    assert crowd[-1].recv(1) == b''
    assert 'turned a control connection away' in agent.log()
    for connection in crowd[:20]:
        connection.close()
    wait_until(lambda: as_user(0, lambda: agent.stats()), 'there is room again')


def test_who_may_do_what(agent):
    agent.session()
    rows = agent.rows()
    assert len(rows) == 2

    def theirs():
        control = protocol.Control(agent.directory)
        assert control.call('list') == {'sessions': []}
        stats = control.call('stats')
        assert stats['users'] == [] and stats['sessions']['shm'] == 1
        assert control.call('limit.get')['limits']['sessions_per_user'] == 4096
        assert control.call('status')['pid'] == agent.process.pid
        for method, params in (('limit.set', {'sessions_per_user': 1}), ('reload', {})):
            with pytest.raises(protocol.RpcError) as error:
                control.call(method, **params)
            assert error.value.code == -32001
            assert str(error.value) == f'permission denied: {method} is for root and the agent\'s own user'
        # Nor without asking for an answer.
        control.socket.sendall(b'{"jsonrpc": "2.0", "method": "limit.set", "params": {"sessions_per_user": 3}}\n')
        assert control.call('limit.get')['limits']['sessions_per_user'] == 4096

    assert as_user(NOBODY, theirs)


def test_users_see_what_is_theirs(agent):
    near, far = agent.connection()

    def theirs():
        client = protocol.Client(agent.directory)
        client.offer(1, near)
        control = protocol.Control(agent.directory)
        [row] = wait_until(lambda: control.call('list')['sessions'], 'the offer shows')
        assert row['uid'] == NOBODY and row['user'] == 'nobody'
        assert [user['user'] for user in control.call('stats')['users']] == ['nobody']

    mine = agent.client()
    other, _ = agent.connection()
    mine.offer(1, other)
    assert as_user(NOBODY, theirs)
    assert [user['user'] for user in agent.stats()['users']] == ['root']


def test_the_agents_own_user_may_do_everything(make_agent):
    agent = make_agent(start=False)
    os.chown(agent.base, NOBODY, NOBODY)
    agent.start(preexec_fn=lambda: (os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY)))
    assert as_user(NOBODY, lambda: agent.call('limit.set', sessions_per_user=9))
    assert not as_user(1, lambda: agent.call('limit.set', sessions_per_user=8))
    assert agent.call('limit.get')['limits']['sessions_per_user'] == 9


def test_the_shape_of_reports(agent):
    client = agent.client()
    agent.session(client, client)
    near, _ = agent.connection()
    client.offer(5, near)
    rows = wait_until(lambda: len(agent.rows()) == 3 and agent.rows(), 'the offer waits')
    for row in rows:
        assert {key: type(value) for key, value in row.items()} == {
            'id': int, 'transport': str, 'state': str, 'pid': int, 'command': str, 'uid': int, 'user': str,
            'local': str, 'remote': str, 'tx_bytes': int, 'rx_bytes': int, 'tx_way': str, 'rx_way': str,
            'ring_bytes': int, 'age_s': float, 'tx_calls': int, 'rx_calls': int, 'sleeps': int, 'bells': int,
            'tx_full': int}
    stats = agent.stats()
    assert set(stats) == {'agent', 'clients', 'clients_refused', 'offers', 'sessions', 'ring_memory', 'bytes',
                          'reasons', 'protocol_errors', 'users', 'links'}
    assert set(stats['agent']) == {'version', 'pid', 'uptime_s', 'runtime_dir', 'config', 'instance'}
    assert set(stats['offers']) == {'total', 'waiting', 'refused', 'withdrawn', 'replaced'}
    assert set(stats['sessions']) == {'shm', 'rdma', 'total', 'declined', 'recalled', 'ends_left'}
    assert set(stats['ring_memory']) == {'bytes', 'pooled_bytes', 'limit_bytes'}
    assert set(stats['links']) == {'peers', 'up', 'refused'}
    assert stats['users'] == [{'uid': 0, 'user': 'root', 'sessions': 1, 'ring_bytes': 528384}]
    assert set(agent.call('status')) == {'version', 'pid', 'runtime_dir', 'config', 'policy', 'namespaces'}


def test_names_that_are_no_text(agent):
    """A process may call itself anything."""
    near, _ = agent.connection()
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with open('/proc/self/comm', 'wb') as name:
            name.write(b'\xff"\\\n\x1b[1m')
        client = protocol.Client(agent.directory)
        client.offer(1, near)
        os.write(told, b'.')
        time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)
        [row] = wait_until(agent.rows, 'the offer shows')
        assert row['command'].startswith('?"\\')
        assert row['pid'] == child
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_many_rows(agent):
    client = agent.client()
    for token in range(40):
        agent.session(client, client)
    control = agent.control()
    control.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for _ in range(3):
        assert len(control.call('list')['sessions']) == 80
