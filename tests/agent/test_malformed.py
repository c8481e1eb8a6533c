"""Whatever a client sends that breaks the protocol costs that client its connection, and nobody else anything."""

import os
import random
import socket
import struct

import pytest

import protocol
from agent_host import wait_until

HEAD = struct.Struct('=HHI')


def packed(kind, body, size=None, zero=0):
    return HEAD.pack(kind, 8 + len(body) if size is None else size, zero) + body


OFFER_BODY = struct.pack('=QII', 1, 0, 0)

# name: packet, number of descriptors (TCP sockets)
BROKEN = {
    'one byte': (b'\0', 0),
    'half a head': (b'\2\0\x18\0', 0),
    'only a head': (packed(protocol.OFFER, b''), 1),
    'too short': (packed(protocol.OFFER, OFFER_BODY[:-1]), 1),
    'too long': (packed(protocol.OFFER, OFFER_BODY + b'\0'), 1),
    'much too long': (packed(protocol.OFFER, bytes(60000)), 1),
    'size that lies': (packed(protocol.OFFER, OFFER_BODY, size=25), 1),
    'size of zero': (packed(protocol.OFFER, OFFER_BODY, size=0), 1),
    'head not zero': (packed(protocol.OFFER, OFFER_BODY, zero=1), 1),
    'unknown type': (packed(99, b''), 0),
    'type zero': (packed(0, b''), 0),
    'unknown flag': (packed(protocol.OFFER, struct.pack('=QII', 1, 4, 0)), 1),
    'padding not zero': (packed(protocol.OFFER, struct.pack('=QII', 1, 0, 7)), 1),
    'offer without socket': (packed(protocol.OFFER, OFFER_BODY), 0),
    'offer with two sockets': (packed(protocol.OFFER, OFFER_BODY), 2),
    'offer with more than fit': (packed(protocol.OFFER, OFFER_BODY), 9),
    'withdraw with a socket': (protocol.withdraw(1), 1),
    'withdraw for an unknown reason': (protocol.withdraw(1, len(protocol.REASONS)), 0),
    'decline for an unknown reason': (protocol.decline(1, 1, 2**32 - 1), 0),
    'decline with a socket': (protocol.decline(1, 1), 1),
    'count with a socket': (protocol.count({}), 1),
    'count too short': (packed(protocol.COUNT, bytes(8)), 0),
    'second hello': (protocol.hello(), 0),
    'welcome': (packed(protocol.WELCOME, bytes(24)), 1),
    'attach': (packed(protocol.ATTACH, struct.pack('=QQQII', 1, 1, 65536, 0, 1)), 5),
    'refused': (packed(protocol.REFUSED, struct.pack('=QII', 1, 1, 0)), 0),
}


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_message(agent, name):
    packet, sockets = BROKEN[name]
    near, _ = agent.connection()
    client, bystander = agent.client(), agent.client()
    other, _ = agent.connection()
    bystander.offer(1, other)
    client.offer(77, near)
    wait_until(lambda: agent.stats()['offers']['waiting'] == 2, 'both offers wait')
    agent.settle()
    descriptors = agent.descriptors()
    client.send(packet, [near.fileno()] * sockets)
    assert client.is_dropped()
    wait_until(lambda: agent.stats()['clients'] == 1, 'the client is gone')
    stats = agent.stats()
    assert stats['protocol_errors'] == 1 and stats['offers']['waiting'] == 1
    agent.settle()
    assert agent.descriptors() == descriptors - 1, 'a descriptor was kept'
    assert 'broke the protocol' in agent.log()
    agent.session(bystander, bystander)


@pytest.mark.parametrize('packet, sockets', [(protocol.offer(1), 1), (protocol.withdraw(1), 0),
                                             (protocol.count({}), 0), (protocol.decline(1, 1), 0)])
def test_before_hello(agent, packet, sockets):
    client = agent.client(greet=False)
    near, _ = agent.connection()
    client.send(packet, [near.fileno()] * sockets)
    assert client.is_dropped()
    assert agent.stats()['protocol_errors'] == 1


@pytest.mark.parametrize('version, layout', [(2, 1), (0, 1), (1, 2), (1, 0)])
def test_another_version(agent, version, layout):
    client = agent.client(greet=False)
    client.send(protocol.hello(version, layout))
    assert client.is_dropped()
    assert 'speaks another version than this agent' in agent.log()
    assert agent.stats()['clients'] == 0


def test_a_token_twice(agent):
    client = agent.client()
    (one, _), (two, _) = agent.connection(), agent.connection()
    client.offer(1, one)
    client.offer(1, two)
    assert client.is_dropped()
    assert agent.stats()['protocol_errors'] == 1 and agent.rows() == []


def test_a_token_of_the_past_may_come_again(agent):
    client = agent.client()
    for _ in range(3):
        near, far = agent.connection()
        client.offer(1, near)
        client.offer(2, far)
        agent.keep(client.attached()), agent.keep(client.attached())


def test_credentials_are_no_descriptors(agent):
    client = agent.client()
    client.socket.sendmsg([protocol.withdraw(1)], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS,
                                                    struct.pack('iII', os.getpid(), os.getuid(), os.getgid()))])
    # The agent did not ask for them, so the kernel keeps them; the message counts.
    agent.session(client, client)


def test_counts(agent):
    client = agent.client()
    client.send(protocol.count({'pinned': 3, 'no_agent': 2, 'none': 9}))
    client.send(protocol.count({'pinned': 1, 'protocol': 2**64 - 1}))
    client.send(protocol.count({'protocol': 2**64 - 1}))
    wait_until(lambda: agent.stats()['reasons']['protocol'], 'the reports came')
    agent.settle()
    reasons = agent.stats()['reasons']
    assert reasons['pinned'] == 4 and reasons['no_agent'] == 2 and reasons['protocol'] == 2**63 - 1
    assert set(reasons) == set(protocol.REASONS) - {'none'}


def test_said_once(agent):
    for _ in range(30):
        client = protocol.Client(agent.directory)
        client.send(b'nonsense')
        assert client.is_dropped()
        client.close()
    lines = [line for line in agent.log().splitlines() if 'broke the protocol' in line]
    assert len(lines) == 2 and agent.stats()['protocol_errors'] == 30


def test_random_messages(make_agent):
    # Without a pool, since what that keeps is no leak.
    agent = make_agent({'rings': {'pool_bytes': 0}})
    seed = random.randrange(2**32)
    print('seed', seed)
    chance = random.Random(seed)
    near, far = agent.connection()
    survivor = agent.client()
    ends = agent.session()
    agent.settle()
    before = agent.descriptors()
    sent = 0
    while sent < 3000:
        client = protocol.Client(agent.directory)
        try:
            for _ in range(chance.randrange(1, 12)):
                sent += 1
                good = chance.choice([protocol.hello(), protocol.offer(chance.randrange(4), chance.randrange(2)),
                                      protocol.withdraw(chance.randrange(4)), protocol.count({}),
                                      protocol.decline(chance.randrange(4), chance.randrange(4), 3)])
                packet = bytearray(good)
                if chance.random() < 0.3:
                    packet[chance.randrange(len(packet))] = chance.randrange(256)
                if chance.random() < 0.1:
                    packet = packet[:chance.randrange(1, len(packet))]
                wanted = packet[0] == protocol.OFFER
                sockets = wanted if chance.random() < 0.9 else chance.randrange(7)
                client.send(bytes(packet), [chance.choice([near, far]).fileno()] * sockets)
        except (BrokenPipeError, ConnectionResetError):
            pass
        client.close()
    near.close()
    far.close()
    wait_until(lambda: agent.stats()['clients'] == 3, 'they are all gone')
    wait_until(lambda: len(agent.rows()) == 2, 'and what they had')
    agent.settle()
    assert agent.descriptors() == before
    assert {row['id'] for row in agent.rows()} == {ends[0].session}
    agent.session(survivor, survivor)
