"""A peer, or what calls itself one, that breaks every rule: it is refused or its link dropped, and nothing else suffers."""

import contextlib
import struct
import time

import pytest

import hostile
import two_hosts
from agent_host import wait_until
from hostile import Ended, Host, hello, message, offer, proof_of, session_message, write

KEY = hostile.key_of(two_hosts.KEY.encode())
NAME = 'db2'


@pytest.fixture
def agent(make_sim, network):
    """The agent of db1, whose peer db2 is ours to play."""
    made = make_sim('db1', 0)
    made.configure(two_hosts.peer(NAME, network.places[1].address, made.key_file))
    return made.start()


@pytest.fixture
def knock(agent, network):
    """Connects as db2's host."""
    with contextlib.ExitStack() as stack:
        yield lambda **more: stack.enter_context(Host(network.places[1], agent, **more))


def counted(agent, before, more=1):
    wait_until(lambda: agent.refused() >= before + more, 'it is counted')


# The agent is the major if its random nonce is greater.
MAJOR, MINOR = bytes(32), b'\xff' * 32


def works(agent, knock, nonce=MAJOR):
    """After all that, the right one still gets its link."""
    host = knock()
    host.greet(NAME, KEY, nonce)
    wait_until(agent.is_up, 'the link is up')
    return host


def test_who_has_the_key_is_let_in(agent, knock):
    host = works(agent, knock)
    host.say(message(hostile.PING, struct.pack('!Q', 77)))
    assert host.hear(hostile.PONG) == message(hostile.PONG, struct.pack('!Q', 77))


def test_strangers_are_rejected(agent, knock, network):
    for _ in range(20):
        host = knock(source=network.STRANGER)
        assert not host.accepted()
    counted(agent, 0, 20)
    assert agent.log().count(f'a connection from {network.STRANGER}:') == 1
    works(agent, knock)


def test_what_is_no_agent_is_rejected(agent, knock):
    for intent in b'', b'rdma-agent lin', b'rdma-agent linK\0', b'x' * 32:
        assert not knock(intent=intent).accepted()
    counted(agent, 0, 4)
    works(agent, knock)


@pytest.mark.parametrize('name', ['db1', 'db3', 'DB2', 'db22'])
def test_another_name_is_refused(agent, knock, name):
    host = knock()
    assert host.accepted()
    host.say(hello(name))
    assert host.is_dropped()
    counted(agent, 0)


def test_a_wrong_key_is_refused(agent, knock):
    host = knock()
    assert host.accepted()
    host.say(hello(NAME))
    theirs = host.hear(hostile.HELLO)
    host.say(proof_of(1, hello(NAME), theirs, hostile.key_of(b'a key that is not the right one')))
    # Nothing is proved to it.
    with pytest.raises(Ended):
        host.hear(hostile.PROOF)
    counted(agent, 0)
    assert 'its proof is wrong' in agent.link()['error']
    works(agent, knock)


def test_a_replayed_proof_is_refused(agent, knock):
    first = knock()
    theirs, _ = first.greet(NAME, KEY)
    replayed = proof_of(1, hello(NAME), theirs, KEY)
    second = knock()
    assert second.accepted()
    second.say(hello(NAME))
    assert second.hear(hostile.HELLO) != theirs
    second.say(replayed)
    with pytest.raises(Ended):
        second.hear(hostile.PROOF)
    counted(agent, 0)
    assert agent.is_up()


def test_a_reflected_proof_is_refused(agent, knock):
    """Two connections at once: what the agent says on one is said to it on the other."""
    one, two = knock(), knock()
    assert one.accepted() and two.accepted()
    one.say(hello(NAME))
    theirs = one.hear(hostile.HELLO)
    two.say(theirs)     # calls itself db1, the agent's own name
    assert two.is_dropped()
    one.say(proof_of(2, hello(NAME), theirs, KEY))      # of the other role
    assert one.is_dropped()


def test_the_same_nonce_from_both_sides_is_refused(agent, knock):
    host = knock()
    assert host.accepted()
    host.say(hello(NAME, nonce=b'm' * 32))
    theirs = host.hear(hostile.HELLO)
    host.say(hello(NAME, nonce=theirs[-32:]))
    assert host.is_dropped()


@pytest.mark.parametrize('version, features, expected', [
    (3, 0, 'it speaks version 3 of the link protocol, and this agent version 2'),
    (2, 1, 'it wants features 0x1 of the link protocol'),
])
def test_mismatches_are_explained(agent, knock, version, features, expected):
    host = knock()
    assert host.accepted()
    host.say(hello(NAME, version=version, features=features))
    assert host.is_dropped()
    counted(agent, 0)
    assert expected in agent.log()


def test_silence_ends(agent, knock):
    """Who does not prove itself within five seconds is dropped, however far it came."""
    silent, half = knock(), knock()
    assert silent.accepted() and half.accepted()
    half.say(hello(NAME))
    half.hear(hostile.HELLO)
    begin = time.monotonic()
    assert silent.is_dropped() and half.is_dropped()
    assert 3 < time.monotonic() - begin < 8
    counted(agent, 0, 2)
    assert 'it did not prove itself within 5 s' in agent.log()


def test_a_crowd_is_kept_out(agent, knock):
    """Of one address only a few may be on their way; the agent holds nothing for the others."""
    before = agent.descriptors()
    crowd = [knock() for _ in range(100)]
    taken = [host.accepted() for host in crowd]
    assert sum(taken) == 8
    assert agent.descriptors() < before + 50
    for host in crowd:
        host.socket.close()
    wait_until(lambda: agent.connections() == 0, 'they are gone')
    works(agent, knock)


BEFORE_PROOF = {
    'ping': message(hostile.PING, bytes(8)),
    'offer': offer(1, hostile.address('10.78.0.2', 5), hostile.address('10.78.0.1', 6)),
    'session': session_message(hostile.WATCHING, 0),
    'proof first': message(hostile.PROOF, bytes(32)),
    'nothing': message(0),
    'unknown': message(999, bytes(100)),
    'long': b'\0' * 512,
    'short': b'\1',
    'size': message(hostile.HELLO, bytes(104), size=5),
    'zero': message(hostile.PING, bytes(8), zero=1),
    'name without end': message(hostile.HELLO, struct.pack('!II64s', 1, 0, b'x' * 64) + bytes(32)),
    'hello cut': hello(NAME)[:-1],
}


@pytest.mark.parametrize('name', BEFORE_PROOF)
def test_anything_but_a_greeting_ends_it(agent, knock, name):
    host = knock()
    assert host.accepted()
    host.say(BEFORE_PROOF[name])
    assert host.is_dropped()
    assert agent.is_down()
    works(agent, knock)


AFTER_PROOF = {
    'hello again': hello(NAME),
    'proof again': message(hostile.PROOF, bytes(32)),
    'unknown': message(999, bytes(100)),
    'size': message(hostile.PING, bytes(8), size=8),
    'foreign offer': offer(1, hostile.address('10.99.0.1', 5), hostile.address('10.78.0.1', 6)),
    'ring size': offer(1, hostile.address('10.78.0.2', 5), hostile.address('10.78.0.1', 6), ring_bytes=12345),
    'no port': offer(1, hostile.address('10.78.0.2', 0), hostile.address('10.78.0.1', 6)),
    'opened nothing': message(hostile.OPENED, struct.pack('!IIQIIQ', 5, 6, 4096, 7, 0, 262144)),
    'refused nothing': message(hostile.REFUSE, struct.pack('!II', 5, 1)),
    'declined for no reason': message(hostile.DECLINE, struct.pack('!QII', 1, 0, 0)),
    'no such session': session_message(hostile.WATCHING, 3),
    'a session far off': session_message(hostile.FINISHED, 0xffffffff, 5),
    'not zero': session_message(hostile.STARVED, 0, zero=1),
    'a value': session_message(hostile.OVER, 0, value=1),
}


@pytest.mark.parametrize('name', AFTER_PROOF)
@pytest.mark.parametrize('nonce', [MAJOR, MINOR], ids=['major', 'minor'])
def test_breaking_the_rules_ends_the_link(agent, knock, name, nonce):
    host = works(agent, knock, nonce)
    host.say(AFTER_PROOF[name])
    assert host.is_dropped()
    wait_until(agent.is_down, 'the link is down')
    assert agent.link()['failures'] == 1 and agent.link()['error']
    works(agent, knock)


WRITES = {
    'no key': write(0, 4096),
    'guessed key': write(0x12345678, 1 << 30, spans=[(1 << 30, b'x' * 100)]),
    'three spans': write(0, 4096, count=3),
    'spans that are not there': write(0, 4096, count=2),
    'cut': write(0, 4096)[:-1],
}


@pytest.mark.parametrize('name', WRITES)
def test_writing_where_nothing_is_ends_the_link(agent, knock, name):
    host = works(agent, knock)
    host.frame(hostile.WRITE, WRITES[name])
    assert host.is_dropped()
    wait_until(agent.is_down, 'the link is down')
    works(agent, knock)


def test_offers_without_number(agent, knock):
    """A peer that only ever offers: the agent keeps so many, and no more memory than that."""
    host = works(agent, knock)
    for turn in range(4):
        host.raw(b''.join(struct.pack('!IBB2x', 72, hostile.MESSAGE, 0) + offer(
            turn * 20000 + i, hostile.address('10.78.0.2', 1 + i), hostile.address('10.78.0.1', 1 + turn))
            for i in range(20000)))
    time.sleep(1)
    assert agent.rss_kb() < 200_000
    assert agent.call('stats')['sessions']['rdma'] == 0


def test_noise(agent, knock, chance):
    """Random bytes, and messages of which some bytes were changed, at every stage."""
    right = [hello(NAME), *BEFORE_PROOF.values(), *AFTER_PROOF.values()]
    for _ in range(150):
        host = knock()
        with contextlib.suppress(Ended):
            if chance.random() < 0.5:
                host.greet(NAME, KEY, nonce=chance.randbytes(32))
            else:
                assert host.accepted()
            for _ in range(chance.randrange(1, 5)):
                noise = bytearray(chance.choice(right) if chance.random() < 0.8 else chance.randbytes(
                    chance.randrange(1, 512)))
                for _ in range(chance.randrange(3)):
                    noise[chance.randrange(len(noise))] = chance.randrange(256)
                host.say(bytes(noise))
        host.socket.close()
    wait_until(lambda: agent.connections() == 0, 'all connections are gone')
    assert agent.descriptors() < 100
    works(agent, knock)
