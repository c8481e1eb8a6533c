"""Two offers for the two ends of one connection become a session; everything else waits or is refused."""

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import time

import pytest

import protocol
from agent_host import wait_until

ORDERLY = 1


def check_pair(near, far):
    assert near.session == far.session and {near.side, far.side} == {0, 1}
    assert near.transport == far.transport == protocol.TRANSPORT_SHM
    assert near.ring_bytes == far.ring_bytes
    # One memory for both, an own end each, and each other's bell.
    near.memory.put64(near.ring(0, protocol.TAIL), 12345)
    assert far.memory.u64(far.ring(0, protocol.TAIL)) == 12345
    near.end.put64(protocol.END_TX_TAIL, 77)
    assert far.end.u64(protocol.END_TX_TAIL) == 0
    for rings, hears in (near, far), (far, near):
        os.write(rings.peer_bell, struct.pack('=Q', 3))
        assert hears.was_rung() and not hears.was_rung() and not rings.was_rung()


@pytest.mark.parametrize('server, client', [('127.0.0.1', '127.0.0.1'), ('::1', '::1'), ('::', '127.0.0.1'),
                                            ('::', '::1'), ('0.0.0.0', '127.0.0.7')])
def test_the_two_ends_meet(agent, server, client):
    near, far = agent.connection(server, client)
    first, second = agent.client(), agent.client()
    first.offer(1, near)
    second.offer(1, far)
    check_pair(agent.keep(first.attached()), agent.keep(second.attached()))


def test_both_offers_may_come_from_one_client(agent):
    client = agent.client()
    check_pair(*agent.session(client, client))


def test_which_side_offers_first_does_not_matter(agent):
    near, far = agent.connection()
    first, second = agent.client(), agent.client()
    second.offer(1, far)
    first.offer(1, near)
    check_pair(agent.keep(first.attached()), agent.keep(second.attached()))


def test_memory_is_as_promised(agent):
    near, far = agent.session()
    ring = near.ring_bytes
    assert ring == 262144
    memory = near.memory
    assert memory.u64(0) == 0x31534d4452
    assert memory.u32(8) == protocol.LAYOUT_VERSION and memory.u32(12) == protocol.TRANSPORT_SHM
    assert memory.u64(16) == near.session and memory.u64(24) == ring
    for side in 0, 1:
        assert memory.u64(near.ring(side, protocol.SWITCH_AT)) == 2**64 - 1
        assert memory.u64(near.ring(side, protocol.TAIL)) == memory.u64(near.ring(side, protocol.HEAD)) == 0
    assert bytes(memory.map[protocol.PAGE:]) == bytes(2 * ring)
    assert near.end.u64(0) == 0x31454d4452 and near.end.u32(12) == near.side and near.end.u64(16) == near.session
    for fd, size in ((near.session_fd, protocol.PAGE + 2 * ring), (near.end_fd, protocol.PAGE)):
        assert os.fstat(fd).st_size == size
        for length in 0, size + protocol.PAGE:
            with pytest.raises(PermissionError):
                os.ftruncate(fd, length)


def test_a_client_cannot_seal_what_others_need(agent):
    import fcntl
    near, _ = agent.session()
    for fd in near.session_fd, near.end_fd:
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x10)    # F_SEAL_FUTURE_WRITE


def test_mail_is_announced(agent):
    client, other = agent.client(), agent.client()
    wait_until(lambda: client.mail() == 1, 'WELCOME is counted')
    agent.session(client, other)
    wait_until(lambda: client.mail() == 2, 'ATTACH is counted')


def test_descriptors_are_not_blocking(agent):
    near, _ = agent.session()
    assert not os.get_blocking(near.peer_bell)
    with pytest.raises(BlockingIOError):
        os.read(near.peer_bell, 8)


def test_nobody_can_make_a_ringer_wait(agent):
    """What an end sleeps with it cannot write to; what it rings, nobody else does."""
    near, far = agent.session()
    for end, other in (near, far), (far, near):
        with pytest.raises(OSError):
            os.write(end.bell, struct.pack('=Q', 1))
        os.write(end.peer_bell, struct.pack('=Q', (1 << 64) - 2))      # the next would wait
        os.set_blocking(end.peer_bell, True)
        assert other.was_rung()
    near.close()                # of which the agent tells the other
    wait_until(far.was_rung, 'the bell rings')
    agent.rows()


def test_an_offer_waits_and_shows(agent):
    near, far = agent.connection()
    client = agent.client()
    client.offer(5, near)
    [row] = wait_until(agent.rows, 'the offer shows')
    assert row['id'] == 0 and row['transport'] == 'tcp' and row['state'] == 'waiting'
    assert row['pid'] == os.getpid() and row['uid'] == os.getuid() and row['command'].startswith('python')
    assert row['local'] == '127.0.0.1:%d' % near.getsockname()[1]
    assert row['remote'] == '127.0.0.1:%d' % far.getsockname()[1]
    assert agent.stats()['offers'] == {'total': 1, 'waiting': 1, 'refused': 0, 'withdrawn': 0, 'replaced': 0}
    assert not client.has_mail()


def test_a_withdrawn_offer_does_not_meet(agent):
    near, far = agent.connection()
    first, second = agent.client(), agent.client()
    first.offer(1, near)
    first.send(protocol.withdraw(1, protocol.REASONS.index('pinned')))
    wait_until(lambda: agent.stats()['offers']['withdrawn'] == 1, 'the offer is withdrawn')
    second.offer(1, far)
    assert not second.has_mail(0.1) and not first.has_mail()
    assert agent.stats()['reasons']['pinned'] == 1
    # It may be offered again, even under the same name.
    first.offer(1, near)
    check_pair(agent.keep(first.attached()), agent.keep(second.attached()))


def test_withdrawing_what_is_not_there_is_no_offence(agent):
    client = agent.client()
    client.send(protocol.withdraw(99))
    near, _ = agent.connection()
    client.offer(1, near)
    wait_until(agent.rows, 'the client is still heard')
    assert agent.stats()['offers']['withdrawn'] == 0


def test_offers_go_with_their_client(agent):
    near, far = agent.connection()
    first, second = agent.client(), agent.client()
    first.offer(1, near)
    wait_until(agent.rows, 'the offer waits')
    first.close()
    wait_until(lambda: agent.rows() == [], 'the offer is gone')
    second.offer(1, far)
    assert not second.has_mail(0.1)


def test_the_newest_offer_of_a_socket_counts(agent):
    near, far = agent.connection()
    parent, child, peer = agent.client(), agent.client(), agent.client()
    parent.offer(1, near)
    child.offer(8, near)
    wait_until(lambda: agent.stats()['offers']['replaced'] == 1, 'the offer is replaced')
    peer.offer(1, far)
    check_pair(agent.keep(child.attached()), agent.keep(peer.attached()))
    assert not parent.has_mail(0.1)


def test_a_stale_offer_gives_way(agent):
    """The same addresses and ports, another socket: the first one is gone, whatever its client says."""
    client, other, peer = agent.client(), agent.client(), agent.client()
    listener = agent.keep(socket.create_server(('127.0.0.1', 0)))
    source = None
    for number in 1, 2:
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        near.bind(source or ('127.0.0.1', 0))
        source = near.getsockname()
        near.connect(listener.getsockname())
        far = listener.accept()[0]
        (client if number == 1 else other).offer(number, near)
        if number == 1:
            wait_until(agent.rows, 'the offer waits')
            # Reset, so that the address is free at once.
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            near.close()
            far.close()
    agent.keep(near), agent.keep(far)
    wait_until(lambda: agent.stats()['offers']['replaced'] == 1, 'the stale offer is replaced')
    peer.offer(1, far)
    check_pair(agent.keep(other.attached()), agent.keep(peer.attached()))
    assert not client.has_mail(0.1)


def test_a_socket_with_a_session_gets_it_again(agent):
    first, second, third = agent.client(), agent.client(), agent.client()
    near, far = agent.connection()
    first.offer(1, near)
    second.offer(1, far)
    attached, peer = agent.keep(first.attached()), agent.keep(second.attached())
    for flags in 0, protocol.ADOPT:
        third.offer(7 + flags, near, flags)
        again = agent.keep(third.attached())
        assert again.token == 7 + flags
        assert (again.session, again.side) == (attached.session, attached.side)
        for mine, theirs in zip(again.fds, attached.fds):
            assert os.path.sameopenfile(mine, theirs) or mine == again.lifeline
            assert os.fstat(mine).st_ino == os.fstat(theirs).st_ino
    assert agent.stats()['sessions'] == {'shm': 1, 'rdma': 0, 'total': 1, 'declined': 0,
                                         'recalled': 0, 'ends_left': 0}
    # Any copy of the lifeline keeps the end: the first holder's is not needed.
    attached.close()
    first.close()
    agent.settle()
    assert peer.memory.u32(peer.ring(attached.side, protocol.TX_CLOSED)) == 0
    assert [row['state'] for row in agent.rows()] == ['attaching', 'attaching']


def test_adopting_takes_the_place_of_an_offer_that_waits(agent):
    """Its holder has found out that another one upgraded it: by an agent before this one, or by none that answers."""
    client, peer = agent.client(), agent.client()
    near, far = agent.connection()
    client.offer(1, near)
    client.offer(1, near, protocol.ADOPT)
    assert client.refused() == 'agent_lost'
    assert agent.stats()['offers']['waiting'] == 0
    client.offer(1, near)
    peer.offer(1, far)
    check_pair(agent.keep(client.attached()), agent.keep(peer.attached()))
    assert agent.stats()['protocol_errors'] == 0


def test_adopting_is_answered_at_once(agent):
    client = agent.client()
    near, far = agent.connection()
    client.offer(1, near, protocol.ADOPT)
    assert client.refused() == 'agent_lost'
    client.offer(2, far)
    assert not client.has_mail(0.1), 'an offer to adopt was left waiting'


@contextlib.contextmanager
def held_by_another(sock):
    """While a process that the agent has nothing to do with holds the socket, too."""
    other = subprocess.Popen(['sleep', '60'], pass_fds=[sock.fileno()])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def test_a_socket_in_other_hands_waits_until_it_is_alone(agent):
    first, second = agent.client(), agent.client()
    near, far = agent.connection()
    second.offer(1, far)
    with held_by_another(near):
        first.offer(1, near, protocol.SHARED)
        assert not first.has_mail(0.5)
        assert agent.stats()['offers']['waiting'] == 2
    near_end = agent.keep(first.attached())
    check_pair(near_end, agent.keep(second.attached()))


def test_both_ends_may_be_in_other_hands(agent):
    first, second = agent.client(), agent.client()
    near, far = agent.connection()
    with held_by_another(far):
        first.offer(1, near, protocol.SHARED)
        second.offer(1, far, protocol.SHARED)
        assert not first.has_mail(0.3)
    near_end = agent.keep(first.attached())
    check_pair(near_end, agent.keep(second.attached()))


def test_what_waits_to_be_alone_can_go(agent):
    first, second = agent.client(), agent.client()
    near, far = agent.connection()
    with held_by_another(near):
        first.offer(1, near, protocol.SHARED)
        first.send(protocol.withdraw(1))
        second.offer(1, far, protocol.SHARED)
        wait_until(lambda: agent.stats()['offers']['waiting'] == 1, 'one has been withdrawn')
        second.close()
        wait_until(lambda: agent.stats()['offers']['waiting'] == 0, 'the other went with its client')
    assert not first.has_mail(0.2)


@pytest.mark.parametrize('flags', [0, protocol.SHARED])
def test_a_socket_that_is_connected_to_itself_waits_for_ever(agent, flags):
    client = agent.client()
    with socket.socket() as lonely:
        lonely.bind(('127.0.0.1', 0))
        lonely.connect(lonely.getsockname())
        client.offer(1, lonely, flags)
        assert not client.has_mail(0.3)
        assert agent.stats()['offers']['waiting'] == 1


def test_a_passed_socket_has_no_end_that_its_holder_may_decline(agent):
    """The holder has not mapped it yet, and may find that it passed the socket on."""
    first, second, third = agent.client(), agent.client(), agent.client()
    near, far = agent.connection()
    first.offer(1, near)
    second.offer(1, far)
    attached, peer = agent.keep(first.attached()), agent.keep(second.attached())
    third.offer(1, near, protocol.ADOPT)
    agent.keep(third.attached())
    attached.end.put32(protocol.END_TAKEN, 0)
    third.offer(2, near, protocol.SHARED)
    assert third.refused() == 'shared'
    assert attached.end.u32(protocol.END_TAKEN) == 2, 'the holder cannot take it any more'
    third.offer(3, near, protocol.ADOPT)
    assert third.refused() == 'shared'
    assert peer.end.u32(protocol.END_TAKEN) == 1


def test_an_end_outlives_its_holder(agent):
    """After exec, or while a socket is under way to another process, nobody holds the lifeline. The socket lives on."""
    first, second, third = agent.client(), agent.client(), agent.client()
    near, far = agent.connection()
    first.offer(1, near)
    second.offer(1, far)
    attached, peer = first.attached(), agent.keep(second.attached())
    side = attached.side
    attached.end.put64(protocol.END_RX_HEAD, 4711)
    attached.close()
    first.close()
    agent.settle()
    third.offer(1, near, protocol.ADOPT)
    again = agent.keep(third.attached())
    assert again.side == side and again.end.u64(protocol.END_RX_HEAD) == 4711
    # From now on the new holder counts, and not only the socket.
    near.close()
    time.sleep(0.2)
    assert peer.memory.u32(peer.ring(side, protocol.TX_CLOSED)) == 0
    again.close()
    wait_until(lambda: peer.memory.u32(peer.ring(side, protocol.TX_CLOSED)) == ORDERLY, 'the end is closed')


def reconnect(sock, address):
    """Connects a connected socket anew, as connect() with AF_UNSPEC allows."""
    unspecified = struct.pack('=H14x', socket.AF_UNSPEC)
    assert ctypes.CDLL(None).connect(sock.fileno(), unspecified, len(unspecified)) == 0
    sock.connect(address)


def test_a_socket_that_was_connected_anew_offers_anew(agent):
    """It is the same socket, with the same cookie, and another connection."""
    client, peer = agent.client(), agent.client()
    with socket.create_server(('127.0.0.1', 0)) as listener:
        near = agent.keep(socket.create_connection(listener.getsockname()))
        agent.keep(listener.accept()[0])
        client.offer(1, near)
        wait_until(agent.rows, 'the offer waits')
        reconnect(near, listener.getsockname())
        far = agent.keep(listener.accept()[0])
        client.offer(2, near)
        wait_until(lambda: agent.stats()['offers']['replaced'] == 1, 'the offer is replaced')
        peer.offer(2, far)
        first, second = agent.keep(client.attached()), agent.keep(peer.attached())
        assert first.session == second.session and second.token == 2
        # The session is the connection's, not the socket's.
        reconnect(near, listener.getsockname())
        far = agent.keep(listener.accept()[0])
        client.offer(3, near, protocol.ADOPT)
        assert client.refused() == 'agent_lost'
        client.offer(4, near)
        peer.offer(4, far)
        third, fourth = agent.keep(client.attached()), agent.keep(peer.attached())
        assert third.session == fourth.session != first.session
        assert {row['id'] for row in agent.rows()} == {first.session, third.session}
        first.close()
        second.close()
        wait_until(lambda: {row['id'] for row in agent.rows()} == {third.session}, 'the old session is over')


@pytest.mark.parametrize('who', ['connected', 'accepted'])
def test_half_closed_connections_still_meet(agent, who):
    near, far = agent.connection()
    (near if who == 'connected' else far).shutdown(socket.SHUT_WR)
    first, second = agent.client(), agent.client()
    first.offer(1, near)
    second.offer(1, far)
    check_pair(agent.keep(first.attached()), agent.keep(second.attached()))


def not_tcp():
    near, far = socket.socketpair()
    yield 'unix', near
    yield 'udp', socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    yield 'unconnected', socket.socket()
    yield 'listening', socket.create_server(('127.0.0.1', 0))
    yield 'file', open('/dev/null')
    reader, writer = os.pipe()
    yield 'pipe', os.fdopen(reader)
    os.close(writer)
    connecting = socket.socket()
    connecting.setblocking(False)
    connecting.connect_ex(('192.0.2.1', 9))
    yield 'connecting', connecting
    far.close()


def test_what_is_not_a_tcp_connection_is_refused(agent):
    client = agent.client()
    for token, (name, thing) in enumerate(not_tcp()):
        client.offer(token, thing)
        assert client.refused() == 'not_tcp', name
        thing.close()
    refused = agent.stats()['offers']['refused']
    assert refused == agent.stats()['reasons']['not_tcp'] == 7
    assert agent.rows() == []


def test_the_agent_keeps_no_copy_of_the_socket(agent):
    near, far = agent.connection()
    client = agent.client()
    client.offer(1, near)
    wait_until(agent.rows, 'the offer waits')
    near.close()
    far.settimeout(5)
    assert far.recv(1) == b'', 'no end of stream'


def test_many_offers_meet(agent):
    """More than one turn of the loop, tables that grow, and offers in another order than they are matched."""
    first, second = agent.client(timeout=30), agent.client(timeout=30)
    pairs = [agent.connection() for _ in range(300)]
    for token, (near, _) in enumerate(pairs):
        first.offer(token, near)
    wait_until(lambda: agent.stats()['offers']['waiting'] == 300, 'all wait')
    sessions = {}
    for token in reversed(range(300)):
        second.offer(token, pairs[token][1])
        near, far = agent.keep(first.attached()), agent.keep(second.attached())
        assert near.token == far.token == token and near.session == far.session
        sessions[near.session] = token
    assert len(sessions) == 300 and agent.stats()['sessions']['shm'] == 300
