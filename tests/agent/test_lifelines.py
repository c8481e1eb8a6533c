"""How ends end: by their lifelines, by declining, with their client or without it; and what is left afterwards."""

import os
import signal
import time

import pytest

import protocol
from agent_host import BUILD, wait_until

ORDERLY, RESET = 1, 2

NOBODY = 65534


def marks(end, side):
    """What the header says of `side`: that it sends no more, that it reads no more."""
    return (end.memory.u32(end.ring(side, protocol.TX_CLOSED)), end.memory.u32(end.ring(1 - side, protocol.RX_CLOSED)))


@pytest.mark.parametrize('which', [0, 1])
def test_the_other_end_is_told(agent, which):
    ends = agent.session()
    gone, stays = ends[which], ends[1 - which]
    side = gone.side
    gone.close()
    wait_until(lambda: marks(stays, side) == (ORDERLY, ORDERLY), 'the end is marked closed')
    assert marks(stays, 1 - side) == (0, 0)
    wait_until(stays.was_rung, 'the bell rings')
    assert [row['state'] for row in agent.rows()] == ['closing', 'closing']


def test_what_the_end_said_itself_stands(agent):
    near, far = agent.session()
    side = near.side
    near.memory.put32(near.ring(side, protocol.TX_CLOSED), RESET)
    near.close()
    wait_until(lambda: marks(far, side) == (RESET, ORDERLY), 'the rest is marked')


def test_a_session_ends_with_both(agent):
    near, far = agent.session()
    size = protocol.PAGE + 2 * near.ring_bytes
    assert agent.stats()['ring_memory']['bytes'] == size
    near.close()
    far.close()
    wait_until(lambda: agent.rows() == [], 'the session is over')
    stats = agent.stats()
    assert stats['ring_memory']['bytes'] == 0 and stats['sessions']['shm'] == 0 and stats['sessions']['total'] == 1


def test_sessions_outlive_their_clients(agent):
    first, second = agent.client(), agent.client()
    near, far = agent.session(first, second)
    first.close()
    second.close()
    wait_until(lambda: agent.stats()['clients'] == 0, 'the clients are gone')
    rows = agent.rows()
    assert [row['pid'] for row in rows] == [os.getpid()] * 2 and rows[0]['command'].startswith('python')
    assert marks(near, far.side) == (0, 0)
    near.close()
    far.close()
    wait_until(lambda: agent.rows() == [], 'the session is over')
    assert agent.stats()['users'] == []


def test_the_last_copy_of_a_lifeline_counts(agent):
    near, far = agent.session()
    copy = os.dup(near.lifeline)
    side = near.side
    near.close()
    agent.settle()
    assert marks(far, side) == (0, 0)
    os.close(copy)
    wait_until(lambda: marks(far, side) == (ORDERLY, ORDERLY), 'the end is marked closed')


def test_writing_to_a_lifeline_changes_nothing(agent):
    near, far = agent.session()
    os.set_blocking(near.lifeline, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(near.lifeline, bytes(65536))
    before = agent.cpu_ns()
    agent.settle()
    assert agent.cpu_ns() - before < 20e6
    side = near.side
    near.close()
    wait_until(lambda: marks(far, side) == (ORDERLY, ORDERLY), 'the end is marked closed')


def test_a_socket_that_is_held_keeps_its_end(agent):
    """It is on its way to another process, or its process became another program, and will ask for its session."""
    near, far = agent.session()
    side = near.side
    near.let_go()
    time.sleep(0.2)
    assert marks(far, side) == (0, 0) and len(agent.rows()) == 2
    assert not far.was_rung()
    near.socket.close()
    wait_until(lambda: marks(far, side) == (ORDERLY, ORDERLY), 'the end is marked closed')
    far.close()
    wait_until(lambda: agent.rows() == [], 'the session is over')


def test_a_session_that_both_let_go_of_waits_for_them(agent):
    near, far = agent.session()
    near.let_go()
    far.let_go()
    time.sleep(0.1)
    assert len(agent.rows()) == 2
    client = agent.client()
    for which in near, far:
        client.offer(1, which.socket, protocol.ADOPT)
        again = client.attached()
        assert (again.session, again.side) == (near.session, which.side)
        which.socket.close()
        again.close()
    wait_until(lambda: agent.rows() == [], 'the session is over')


def test_a_stream_of_those_who_let_go(agent):
    """Each is found out in time, however many follow."""
    client = agent.client()
    for _ in range(300):
        near, far = agent.session(client, client)
        near.let_go()
        far.let_go()
        agent.stats()       # answered after it has seen that
        near.socket.close()
        far.socket.close()
        del agent.open[-4:]
        assert agent.stats()['sessions']['shm'] < 250
    wait_until(lambda: agent.rows() == [], 'all sessions are over')


def test_a_held_socket_costs_no_time(agent):
    near, far = agent.session()
    near.let_go()
    time.sleep(1)
    before = agent.cpu_ns()
    time.sleep(2)
    assert agent.cpu_ns() - before < 5e6


def test_a_killed_process_is_noticed(agent):
    client, peer = agent.client(), agent.client()
    near, far = agent.connection()
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)    # should the test fail before it kills us
            mine = protocol.Client(agent.directory)
            mine.offer(1, near)
            mine.attached()
            os.write(told, b'.')
            os.read(os.pipe()[0], 1)
        finally:
            os._exit(1)
    peer.offer(1, far)
    end = agent.keep(peer.attached())
    assert os.read(ready, 1) == b'.'
    os.close(ready), os.close(told)
    assert child in [row['pid'] for row in agent.rows()]
    near.close()
    os.kill(child, 9)
    os.waitpid(child, 0)
    wait_until(lambda: marks(end, 1 - end.side) == (ORDERLY, ORDERLY), 'the end is marked closed')
    assert end.was_rung()


def test_an_attach_that_is_never_read_ends(agent):
    first, second = agent.client(), agent.client()
    near, far = agent.connection()
    first.offer(1, near)
    second.offer(1, far)
    end = agent.keep(second.attached())
    near.close()
    first.close()
    wait_until(lambda: marks(end, 1 - end.side) == (ORDERLY, ORDERLY), 'the end is marked closed')


def test_declining(agent):
    first, second = agent.client(), agent.client()
    near, far = agent.session(first, second)
    side = near.side
    first.send(protocol.decline(near.token, near.session, protocol.REASONS.index('no_memory')))
    wait_until(lambda: marks(far, side) == (ORDERLY, ORDERLY), 'the other end is told')
    stats = agent.stats()
    assert stats['sessions'] == {'shm': 1, 'rdma': 0, 'total': 1, 'declined': 1, 'recalled': 1, 'ends_left': 0}
    assert stats['reasons']['no_memory'] == 1
    # Although both sockets are still held.
    near.let_go()
    far.let_go()
    wait_until(lambda: agent.rows() == [], 'the session is over')


def test_what_was_declined_is_not_given_again(agent):
    first, second = agent.client(), agent.client()
    sockets = agent.connection()
    first.offer(1, sockets[0])
    second.offer(1, sockets[1])
    near, far = agent.keep(first.attached()), agent.keep(second.attached())
    first.send(protocol.decline(1, near.session, protocol.REASONS.index('no_descriptors')))
    first.offer(2, sockets[0])
    assert first.refused() == 'no_descriptors'


def test_declining_what_others_hold_ends_nothing(agent):
    first, second, third = agent.client(), agent.client(), agent.client()
    sockets = agent.connection()
    first.offer(1, sockets[0])
    second.offer(1, sockets[1])
    near, far = agent.keep(first.attached()), agent.keep(second.attached())
    third.offer(1, sockets[0], protocol.ADOPT)
    third.attached().close()
    third.send(protocol.decline(1, near.session, protocol.REASONS.index('no_memory')))
    wait_until(lambda: agent.stats()['sessions']['declined'] == 1, 'it is counted')
    agent.settle()
    assert marks(far, near.side) == (0, 0)


def test_only_a_holder_can_decline(agent):
    near, far = agent.session()
    stranger = agent.client()
    stranger.send(protocol.decline(near.token, near.session, 1))
    stranger.send(protocol.decline(near.token, 999, 1))
    agent.settle()
    assert marks(far, near.side) == marks(near, far.side) == (0, 0)
    assert agent.stats()['sessions']['declined'] == 0 and agent.stats()['clients'] == 3


@pytest.mark.parametrize('user', ['root', 'other'])
def test_reused_memory_is_clean(agent, user):
    """Root's is not even used again."""
    if os.geteuid() != 0:
        pytest.skip('only root can be both users')
    client = agent.client() if user == 'root' else agent.client_of(NOBODY)
    inodes = set()
    for turn in range(12):
        near, far = agent.session(client, client)
        inodes.add(os.fstat(near.session_fd).st_ino)
        size = protocol.PAGE + 2 * near.ring_bytes
        assert bytes(near.memory.map[protocol.PAGE:size]) == bytes(size - protocol.PAGE), f'turn {turn}'
        for index in 0, 1:
            assert near.memory.u64(near.ring(index, protocol.TAIL)) == 0
            assert near.memory.u32(near.ring(index, protocol.TX_CLOSED)) == 0
            assert near.memory.u32(near.ring(index, protocol.RX_CLOSED)) == 0
        near.memory.map[128:size] = b'\xa5' * (size - 128)
        near.close()
        far.close()
        wait_until(lambda: agent.rows() == [], 'the session is over')
    assert len(inodes) == 12 if user == 'root' else len(inodes) < 12


def test_bytes_are_counted(agent):
    near, far = agent.session()
    near.end.put64(protocol.END_TX_TAIL, 1000)
    far.end.put64(protocol.END_RX_HEAD, 900)
    far.end.put64(protocol.END_TX_CALLS, 5)
    near.end.put32(protocol.END_TX_WAY, 2)
    far.end.put32(protocol.END_RX_WAY, 1)
    rows = {row['local']: row for row in agent.rows()}
    [ours] = [row for row in rows.values() if row['tx_way'] == 'ring']
    theirs = rows[ours['remote']]
    assert (ours['tx_bytes'], ours['rx_bytes'], ours['state']) == (1000, 0, 'ring')
    assert (theirs['tx_bytes'], theirs['rx_bytes'], theirs['rx_way'], theirs['tx_calls']) == (0, 900, 'watch', 5)
    assert theirs['state'] == 'attaching'
    assert agent.stats()['bytes'] == {'tx': 1000, 'rx': 900}
    near.close()
    far.close()
    wait_until(lambda: agent.rows() == [], 'the session is over')
    assert agent.stats()['bytes'] == {'tx': 1000, 'rx': 900}


def test_nonsense_in_end_memory_is_clamped(agent):
    near, far = agent.session()
    near.end.map[128:protocol.PAGE] = b'\xff' * (protocol.PAGE - 128)
    far.end.put64(protocol.END_RX_HEAD, 10)
    [row] = [row for row in agent.rows() if row['tx_bytes']]
    assert row['tx_bytes'] == 10 + near.ring_bytes and row['rx_bytes'] == 0
    assert row['tx_calls'] == 2**63 - 1 and row['tx_way'] == 'tcp'
    near.memory.map[128:protocol.PAGE] = b'\xff' * (protocol.PAGE - 128)
    near.close()
    far.close()
    wait_until(lambda: agent.rows() == [], 'the session is over')


def test_nothing_leaks(agent):
    first, second = agent.client(), agent.client()

    def turn():
        near, far = agent.session(first, second)
        near.close()
        far.close()
        for thing in agent.open[-4:]:
            thing.close()
        del agent.open[-4:]

    for _ in range(50):
        turn()
    agent.settle()
    descriptors = agent.descriptors()
    memory = resident(agent)
    for _ in range(2000):
        turn()
    agent.settle()
    assert agent.descriptors() <= descriptors + 2
    # A sanitizer keeps freed memory for a while.
    assert resident(agent) < memory + (1 << 20) or 'san' in BUILD.name
    stats = agent.stats()
    assert stats['sessions']['total'] == 2050 and stats['ring_memory']['bytes'] == 0


def resident(agent):
    with open(f'/proc/{agent.process.pid}/statm') as file:
        return int(file.read().split()[1]) * 4096
