"""What a user may have of sessions, memory, clients and offers; and what happens when the host has no more to give."""

import os
import resource
import socket
import time

import pytest

import protocol
from agent_host import wait_until

NOBODY = 65534


def refused_pair(agent, first, second, tokens=(1, 2)):
    near, far = agent.connection()
    first.offer(tokens[0], near)
    second.offer(tokens[1], far)
    return first.refused(), second.refused()


def as_user(uid, function):
    """Runs a function in a child process of another user. Returns whether it ran through."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            function()
            status = 0
        except BaseException as error:      # shown, since pytest does not see this process
            print(f'as user {uid}: {error!r}', flush=True)
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def test_sessions_per_user(make_agent):
    agent = make_agent({'limits': {'sessions_per_user': 2}})
    first, second = agent.client(), agent.client()
    held = [agent.session(first, second) for _ in range(2)]
    assert refused_pair(agent, first, second) == ('limit_sessions', 'limit_sessions')
    stats = agent.stats()
    assert stats['reasons']['limit_sessions'] == 2 and stats['offers']['refused'] == 2
    assert stats['offers']['waiting'] == 0 and stats['sessions']['shm'] == 2
    for end in held[0]:
        end.close()
    wait_until(lambda: agent.stats()['sessions']['shm'] == 1, 'one is over')
    agent.session(first, second)


def test_ring_memory_per_user(make_agent):
    session = protocol.PAGE + 2 * 16384
    agent = make_agent({'rings': {'bytes': 16384}, 'limits': {'ring_memory_per_user': 3 * session}})
    first, second = agent.client(), agent.client()
    for _ in range(3):
        agent.session(first, second)
    assert refused_pair(agent, first, second) == ('limit_memory', 'limit_memory')
    assert agent.stats()['ring_memory']['bytes'] == 3 * session
    assert agent.stats()['reasons']['limit_memory'] == 2


def test_ring_memory_of_the_agent(make_agent):
    session = protocol.PAGE + 2 * 16384
    agent = make_agent({'rings': {'bytes': '16KiB'}, 'limits': {'ring_memory': 4 * session + 1}})
    client = agent.client()
    for number in range(4):
        agent.session(client, client)
        agent.settle()
        memory = agent.stats()['ring_memory']
        assert memory['bytes'] == (number + 1) * session and memory['limit_bytes'] == 4 * session + 1
        assert memory['bytes'] + memory['pooled_bytes'] <= memory['limit_bytes']
    assert refused_pair(agent, client, client) == ('limit_memory', 'limit_memory')


def test_the_pool_is_bounded(make_agent):
    session = protocol.PAGE + 2 * 16384
    agent = make_agent({'rings': {'bytes': 16384, 'pool_bytes': 3 * session - 1}})
    client = agent.client()
    ends = [agent.session(client, client) for _ in range(20)]
    for near, far in ends:
        near.close()
        far.close()
    wait_until(lambda: agent.stats()['ring_memory']['bytes'] == 0, 'all are over')
    agent.settle()
    assert agent.stats()['ring_memory']['pooled_bytes'] == 2 * session
    client.close()
    wait_until(lambda: agent.stats()['ring_memory']['pooled_bytes'] == 0, 'the user is gone, and the memory')


def test_offers_per_user(make_agent):
    agent = make_agent({'limits': {'offers_per_user': 3}})
    client, other = agent.client(), agent.client()
    pairs = [agent.connection() for _ in range(4)]
    for token, (near, _) in enumerate(pairs):
        client.offer(token, near)
    assert client.refused() == 'table_full'
    assert agent.stats()['offers']['waiting'] == 3
    # One that need not wait is none too many.
    other.offer(1, pairs[0][1])
    assert other.attached().session == client.attached().session


def test_clients_per_user(make_agent):
    agent = make_agent({'limits': {'clients_per_user': 2}})
    clients = [agent.client(), agent.client()]
    with pytest.raises((protocol.Dropped, BrokenPipeError)):
        protocol.Client(agent.directory)
    stats = agent.stats()
    assert stats['clients'] == 2 and stats['clients_refused'] == 1
    assert 'limits.clients_per_user' in agent.log()
    # Another user has an account of its own.
    assert as_user(NOBODY, lambda: protocol.Client(agent.directory))
    clients[0].close()
    wait_until(lambda: agent.stats()['clients'] == 1, 'one is gone')
    agent.client()


def test_a_session_of_two_users_counts_for_both(make_agent):
    session = protocol.PAGE + 2 * 262144
    agent = make_agent({'limits': {'sessions_per_user': 1}})
    client = agent.client()
    near, far = agent.connection()
    client.offer(1, near)

    def theirs():
        other = protocol.Client(agent.directory)
        other.offer(1, far)
        end = other.attached()
        rows = protocol.Control(agent.directory).call('list')['sessions']
        assert [row['uid'] for row in rows] == [NOBODY], rows
        users = protocol.Control(agent.directory).call('stats')['users']
        assert users == [{'uid': NOBODY, 'user': 'nobody', 'sessions': 1, 'ring_bytes': session}], users
        # Memory of two users is not kept for either: what was in it must not be seen again.
        end.memory.map[protocol.PAGE:protocol.PAGE + 6] = b'secret'

    agent.settle()
    pooled = agent.stats()['ring_memory']['pooled_bytes']
    assert as_user(NOBODY, theirs)
    mine = agent.keep(client.attached())
    users = {user['uid']: user for user in agent.stats()['users']}
    assert users[0]['sessions'] == 1 and users[0]['ring_bytes'] == session
    assert refused_pair(agent, client, client, (5, 6)) == ('limit_sessions', 'limit_sessions')
    assert bytes(mine.memory.map[protocol.PAGE:protocol.PAGE + 6]) == b'secret'
    near.close()
    far.close()
    mine.close()
    wait_until(lambda: agent.stats()['ring_memory']['bytes'] == 0, 'the session is over')
    agent.settle()
    assert agent.stats()['ring_memory']['pooled_bytes'] == pooled


def test_memory_that_another_user_was_given_is_not_used_again(agent):
    """A socket can be passed on to another user, who may keep the memory of its session mapped."""
    client = agent.client_of(NOBODY)
    for other in False, True:
        sockets = agent.connection()
        client.offer(1, sockets[0])
        client.offer(2, sockets[1])
        ends = [client.attached(), client.attached()]

        def adopt():
            theirs = protocol.Client(agent.directory)
            theirs.offer(1, sockets[0], protocol.ADOPT)
            theirs.attached()

        assert as_user(0 if other else NOBODY, adopt)
        agent.settle()
        pooled = agent.stats()['ring_memory']['pooled_bytes']
        for thing in *sockets, *ends:
            thing.close()
        wait_until(lambda: agent.rows() == [], 'the session is over')
        agent.settle()
        kept = agent.stats()['ring_memory']['pooled_bytes'] - pooled
        assert kept == (0 if other else protocol.PAGE + 2 * ends[0].ring_bytes)


def test_limits_can_be_set(agent):
    before = agent.call('limit.get')['limits']
    assert before == {'sessions_per_user': 4096, 'ring_memory_per_user': 1 << 30, 'ring_memory': 4 << 30,
                      'rate_per_session': 0, 'clients_per_user': 4096, 'offers_per_user': 16384}
    client = agent.client()
    generation = client.board.u32(protocol.BOARD_GENERATION)
    after = agent.call('limit.set', sessions_per_user=1, rate_per_session=1000000)['limits']
    assert after == {**before, 'sessions_per_user': 1, 'rate_per_session': 1000000}
    assert client.board.u64(protocol.BOARD_RATE) == 1000000
    assert client.board.u32(protocol.BOARD_GENERATION) == generation + 1
    agent.session(client, client)
    assert refused_pair(agent, client, client, (5, 6)) == ('limit_sessions', 'limit_sessions')
    # A limit below what is in use ends nothing.
    agent.call('limit.set', ring_memory=1, ring_memory_per_user=1, sessions_per_user=7)
    assert refused_pair(agent, client, client, (7, 8)) == ('limit_memory', 'limit_memory')
    assert agent.stats()['sessions']['shm'] == 1
    # They live until the configuration is read again.
    assert sorted(agent.call('reload')['changed']) == ['limits.rate_per_session', 'limits.ring_memory',
                                                      'limits.ring_memory_per_user', 'limits.sessions_per_user']
    assert agent.call('limit.get')['limits'] == before


@pytest.mark.parametrize('params, expected', [
    ({'sessions_per_user': 0}, 'limits.sessions_per_user: expected a whole number from 1 to'),
    ({'sessions_per_user': -1}, 'found -1'),
    ({'ring_memory': 'much'}, 'limits.ring_memory: expected a number of bytes from 1 to'),
    ({'clients': 1}, 'limits.clients: unknown key, expected one of sessions_per_user, ring_memory_per_user'),
    ({'sessions_per_user': 5, 'rate_per_session': 1.5}, 'limits.rate_per_session: expected a number of bytes'),
])
def test_bad_limits_change_nothing(agent, params, expected):
    before = agent.call('limit.get')
    with pytest.raises(protocol.RpcError) as error:
        agent.call('limit.set', **params)
    assert error.value.code == -32602 and expected in str(error.value)
    assert agent.call('limit.get') == before


def limit_files(most):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, most), most))


def test_the_soft_limit_of_files_is_raised(make_agent):
    agent = make_agent(preexec_fn=limit_files(1024))
    assert resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE) == (1024, 1024)


def test_no_descriptors_left(make_agent):
    """Sessions are refused, then clients turned away; control and those who are connected are still served."""
    agent = make_agent(preexec_fn=limit_files(256))
    client = agent.client()
    refused = None
    while not refused:
        near, far = agent.connection()
        client.offer(1, near)
        client.offer(2, far)
        answer = client.answer()
        if isinstance(answer, protocol.Refused):
            assert (answer.reason, client.refused()) == ('no_descriptors', 'no_descriptors')
            refused = near, far
        else:
            agent.keep(answer)
            agent.keep(client.attached())
    sessions = agent.stats()['sessions']['shm']
    assert 15 <= sessions <= 25 and agent.stats()['reasons']['no_descriptors'] == 2
    crowd = [agent.keep(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) for _ in range(200)]
    for connection in crowd:
        connection.connect(os.path.join(agent.directory, 'agent.sock'))
    wait_until(lambda: agent.stats()['clients_refused'] > 100, 'most of the crowd is turned away')
    agent.settle()
    assert agent.descriptors() < 256 - 32
    # A message with a descriptor is still received.
    client.offer(3, refused[0])
    wait_until(lambda: agent.stats()['offers']['waiting'] == 1, 'the offer waits')
    for connection in crowd:
        connection.close()
    agent.settle()
    assert agent.stats()['clients'] == 1


def test_a_client_that_does_not_read_loses_nothing(agent):
    """Neither the agent nor the other client waits for it, and its sessions come when it reads again."""
    lazy, busy = agent.client(timeout=30), agent.client(timeout=30)
    count = 120
    ends = []
    pairs = [agent.connection() for _ in range(count)]
    for token, (near, far) in enumerate(pairs):
        lazy.offer(token, near)
        busy.offer(token, far)
        while busy.has_mail():
            ends.append(agent.keep(busy.attached()))
        if token == 100:
            # In the middle of it all, others are served.
            agent.session()
    agent.settle()
    before = agent.stats()
    assert 50 < before['sessions']['shm'] < count and before['offers']['waiting'] > 0
    ends += [agent.keep(lazy.attached()) for _ in range(count)]
    ends += [agent.keep(busy.attached()) for _ in range(2 * count - len(ends))]
    assert len({end.session for end in ends}) == count
    assert agent.stats()['offers']['waiting'] == 0 and agent.stats()['sessions']['shm'] == count + 1


def test_a_client_that_does_not_read_may_go(agent):
    lazy = agent.client(timeout=30)
    pairs = [agent.connection() for _ in range(200)]
    for token, (near, far) in enumerate(pairs):
        try:
            lazy.socket.setblocking(False)
            lazy.offer(2 * token, near)
            lazy.offer(2 * token + 1, far)
        except BlockingIOError:
            break
    agent.settle()
    lazy.close()
    for near, far in pairs:
        near.close()
        far.close()
    wait_until(lambda: agent.stats()['clients'] == 0, 'it is gone')
    wait_until(lambda: agent.rows() == [], 'so are its sessions')


def test_an_idle_agent_sleeps(agent):
    agent.session()
    agent.settle()
    before = agent.cpu_ns()
    time.sleep(2)
    assert agent.cpu_ns() == before
