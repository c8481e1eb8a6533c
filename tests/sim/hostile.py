"""A host that speaks the simulated fabric and the link protocol itself, and says what it likes.

It is written from the descriptions in sim.h and agent/link_wire.h, and computes proofs by itself.
"""

import ctypes
import ctypes.util
import socket
import struct

PATIENCE = 20.0

CONNECT, ACCEPT, READY, REJECT, WRITE, MESSAGE = range(1, 7)
INTENT = b'rdma-agent link\0'

HELLO, PROOF, PING, PONG = 1, 2, 3, 4
OFFER, WITHDRAW, OPEN, OPENED, REFUSE, DECLINE = range(16, 22)
WATCHING, SWITCHED, FINISHED, UNREAD, STARVED, ENDED, SETTLED, LEAVE, OVER, ARRIVED = range(32, 42)

libsodium = ctypes.CDLL(ctypes.util.find_library('sodium') or 'libsodium.so.23')


def key_of(text):
    key = ctypes.create_string_buffer(32)
    libsodium.crypto_generichash(key, ctypes.c_size_t(32), text, ctypes.c_ulonglong(len(text)), None, ctypes.c_size_t(0))
    return key.raw


def keyed_hash(statement, key):
    proof = ctypes.create_string_buffer(32)
    libsodium.crypto_auth(proof, statement, ctypes.c_ulonglong(len(statement)), key)
    return proof.raw


def message(kind, body=b'', size=None, zero=0):
    return struct.pack('!HHI', kind, 8 + len(body) if size is None else size, zero) + body


def hello(host, nonce=b'n' * 32, version=2, features=0):
    return message(HELLO, struct.pack('!II64s', version, features, host.encode()) + nonce)


def proof_of(role, connector, acceptor, key):
    return message(PROOF, keyed_hash(b'rdma-agent link proof 1\0' + bytes([role]) + connector + acceptor, key))


def address(text, port, scope=0):
    ip = b'\0' * 10 + b'\xff\xff' + socket.inet_aton(text)
    return ip + struct.pack('!IHH', scope, port, 0)


def offer(number, local, remote, ring_bytes=262144):
    return message(OFFER, struct.pack('!Q', number) + local + remote + struct.pack('!Q', ring_bytes))


def session_message(kind, session, value=0, zero=0):
    return message(kind, struct.pack('!IIQ', session, zero, value))


def write(key, cursor_to, cursor=1, immediate=0, spans=(), count=None):
    """`spans` are pairs of address and bytes."""
    head = struct.pack('!QQIIII', cursor, cursor_to, key, immediate, len(spans) if count is None else count, 0)
    return head + b''.join(struct.pack('!QII', to, len(data), 0) for to, data in spans) + b''.join(
        data for _, data in spans)


class Ended(Exception):
    """The other side closed the connection."""


class Host:
    """One connection to an agent, made from `place` (two_hosts.py)."""

    def __init__(self, place, agent, source=None, intent=INTENT):
        with place.inside():
            self.socket = socket.create_connection((agent.place.address, 4792), source_address=(source, 0) if source
                                                   else None, timeout=PATIENCE)
        self.frame(CONNECT, intent)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def raw(self, data):
        try:
            self.socket.sendall(data)
        except (ConnectionError, socket.timeout):
            raise Ended from None

    def frame(self, kind, body=b'', size=None):
        self.raw(struct.pack('!IBB2x', len(body) if size is None else size, kind, 0) + body)

    def exactly(self, size):
        data = b''
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionError:
                raise Ended from None
            if not more:
                raise Ended
            data += more
        return data

    def next_frame(self):
        size, kind, _ = struct.unpack('!IBB2x', self.exactly(8))
        return kind, self.exactly(size)

    def accepted(self):
        """Whether the agent takes the connection at all."""
        kind, _ = self.next_frame()
        if kind == ACCEPT:
            self.frame(READY)
        return kind == ACCEPT

    def say(self, data):
        self.frame(MESSAGE, data)

    def hear(self, *kinds):
        """The next message of one of these types; pings are answered meanwhile."""
        while True:
            kind, body = self.next_frame()
            if kind != MESSAGE:
                continue
            type_of = struct.unpack('!H', body[:2])[0]
            if type_of == PING and PING not in kinds:
                self.say(message(PONG, body[8:]))
            elif not kinds or type_of in kinds:
                return body

    def greet(self, name, key, nonce=b'n' * 32):
        """The whole greeting, as it should be. Returns the agent's hello and proof."""
        assert self.accepted()
        mine = hello(name, nonce)
        self.say(mine)
        theirs = self.hear(HELLO)
        self.say(proof_of(1, mine, theirs, key))
        proof = self.hear(PROOF)
        assert proof == proof_of(2, mine, theirs, key)
        return theirs, proof

    def is_dropped(self):
        """Waits for the agent to close the connection."""
        try:
            while True:
                self.next_frame()
        except Ended:
            return True
