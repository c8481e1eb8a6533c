"""The operator's rules, from the configuration to the client."""

import socket

import pytest

import protocol
from agent_host import wait_until
from test_limits import NOBODY, as_user


def outcome(agent, server='127.0.0.1', client=None):
    """What becomes of a connection whose two ends are offered: 'ring', or the reason why not."""
    first, second = agent.client(), agent.client()
    near, far = agent.connection(server, client)
    first.offer(1, near)
    second.offer(1, far)
    answers = [first.answer(), second.answer()]
    if isinstance(answers[0], protocol.Attached):
        for answer in answers:
            answer.close()
        return 'ring'
    assert answers[0].reason == answers[1].reason
    return answers[0].reason


EPHEMERAL = '32768-60999'

CASES = {
    'default': ({}, 'ring'),
    'off': ({'enabled': False}, 'policy_user'),
    'port denied': ({'ports': {'deny': [22, EPHEMERAL]}}, 'policy_port'),
    'port not denied': ({'ports': {'deny': [22, '1-1023']}}, 'ring'),
    'port allowed': ({'ports': {'allow': ['1024-65535']}}, 'ring'),
    'port not allowed': ({'ports': {'allow': [80]}}, 'policy_port'),
    'no port allowed': ({'ports': {'allow': []}}, 'policy_port'),
    'port denied and allowed': ({'ports': {'deny': ['1-65535'], 'allow': ['1-65535']}}, 'policy_port'),
    'address denied': ({'addresses': {'deny': ['127.0.0.0/8']}}, 'policy_address'),
    'address not denied': ({'addresses': {'deny': ['10.0.0.0/8', '::1']}}, 'ring'),
    'address allowed': ({'addresses': {'allow': ['127.0.0.1']}}, 'ring'),
    'address not allowed': ({'addresses': {'allow': ['127.0.0.2/32']}}, 'policy_address'),
    'address denied and allowed': ({'addresses': {'deny': ['127.0.0.1'], 'allow': ['0.0.0.0/0']}}, 'policy_address'),
    'user denied': ({'users': {'deny': ['root']}}, 'policy_user'),
    'user denied by number': ({'users': {'deny': [1, 0]}}, 'policy_user'),
    'user not denied': ({'users': {'deny': ['nobody']}}, 'ring'),
    'user allowed': ({'users': {'allow': ['root']}}, 'ring'),
    'user not allowed': ({'users': {'allow': ['nobody', 1]}}, 'policy_user'),
}


@pytest.mark.parametrize('name', CASES)
def test_rules(make_agent, name):
    rules, expected = CASES[name]
    agent = make_agent({'upgrade': rules})
    assert outcome(agent) == expected
    if expected != 'ring':
        assert agent.stats()['reasons'][expected] == agent.stats()['offers']['refused'] == 2


def test_the_port_of_either_end_counts(make_agent):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
        agent = make_agent({'upgrade': {'ports': {'deny': [port]}}})
        near = agent.keep(socket.create_connection(('127.0.0.1', port)))
        far = agent.keep(listener.accept()[0])
    client = agent.client()
    for sock in near, far:
        client.offer(1, sock)
        assert client.refused() == 'policy_port'


def test_networks_of_both_families(make_agent):
    agent = make_agent({'upgrade': {'addresses': {'deny': ['::1/128', '127.0.0.8/29']}}})
    assert outcome(agent, '::', '::1') == 'policy_address'
    assert outcome(agent, '127.0.0.1') == 'ring'
    assert outcome(agent, '127.0.0.9') == 'policy_address'
    # The server sees ::ffff:127.0.0.10.
    assert outcome(agent, '::', '127.0.0.10') == 'policy_address'


def test_each_user_is_judged(make_agent):
    agent = make_agent({'upgrade': {'users': {'deny': ['nobody']}}})
    near, _ = agent.connection()

    def theirs():
        client = protocol.Client(agent.directory)
        client.offer(1, near)
        assert client.refused() == 'policy_user'

    assert as_user(NOBODY, theirs)
    assert outcome(agent) == 'ring'


def test_the_board_says_what_clients_need(make_agent):
    agent = make_agent({'upgrade': {'enabled': False, 'after_calls': 3, 'after_bytes': '1MiB'},
                        'limits': {'rate_per_session': 5000}})
    board = agent.client().board
    assert board.u64(0) == 0x31424d4452 and board.u32(8) == protocol.LAYOUT_VERSION and board.u32(12) == 16384
    assert board.u32(protocol.BOARD_ENABLED) == 0
    assert board.u64(protocol.BOARD_AFTER_CALLS) == 3 and board.u64(protocol.BOARD_AFTER_BYTES) == 1 << 20
    assert board.u64(protocol.BOARD_RATE) == 5000


def test_the_board_is_for_reading(agent):
    import mmap
    import os
    client = agent.client()
    assert client.instance == client.board.u64(16)
    assert '%016x' % client.instance == agent.stats()['agent']['instance']
    with pytest.raises(PermissionError):
        mmap.mmap(client.board_fd, protocol.BOARD_BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.pwrite(client.board_fd, b'x', 0)
    with pytest.raises(PermissionError):
        os.ftruncate(client.board_fd, 0)


def test_a_new_rule_reaches_offers_that_wait(make_agent):
    agent = make_agent({})
    first, second = agent.client(), agent.client()
    near, far = agent.connection()
    first.offer(1, near)
    wait_until(agent.rows, 'the offer waits')
    generation = first.board.u32(protocol.BOARD_GENERATION)
    agent.write_config({'upgrade': {'addresses': {'deny': ['127.0.0.1']}}})
    assert agent.call('reload')['changed'] == ['upgrade.addresses.deny']
    assert first.refused() == 'policy_address'
    assert first.board.u32(protocol.BOARD_GENERATION) == generation + 1
    assert agent.rows() == []
    agent.write_config({})
    agent.call('reload')
    first.offer(1, near)
    second.offer(1, far)
    assert first.attached().session == second.attached().session
