"""The client's side of the agent's protocols, in plain Python: packets with descriptors, and shared memory by offset.

Names and numbers are those of core/wire.h and core/layout.h.
"""

import array
import json
import mmap
import os
import select
import socket
import struct

HELLO, OFFER, WITHDRAW, DECLINE, COUNT = 1, 2, 3, 4, 5
WELCOME, ATTACH, REFUSED = 65, 66, 67

WIRE_VERSION = 4
LAYOUT_VERSION = 8
ADOPT, SHARED = 1, 2

REASONS = ['none', 'policy_port', 'policy_address', 'policy_user', 'namespace', 'not_tcp', 'limit_sessions',
           'limit_memory', 'no_memory', 'no_descriptors', 'table_full', 'no_agent', 'agent_lost', 'pinned', 'protocol',
           'shared']

TRANSPORT_SHM = 1
PAGE = 4096

# struct ring_shared, from the beginning of its ring
RING_OFFSET = (128, 640)
TAIL, SWITCH_AT, TX_CLOSED = 0, 8, 20
HEAD, RX_CLOSED = 128, 140

# struct end_shared
END_TAKEN, END_TX_TAIL, END_TX_WAY, END_RX_HEAD, END_RX_WAY = 48, 128, 136, 256, 264
END_TX_CALLS = 384

# struct board
BOARD_GENERATION, BOARD_ENABLED, BOARD_AFTER_BYTES, BOARD_AFTER_CALLS, BOARD_RATE = 24, 28, 32, 40, 48
BOARD_SLOT_BYTES = 64
BOARD_BYTES = PAGE + 16384 * BOARD_SLOT_BYTES


def head(kind, size):
    return struct.pack('=HHI', kind, size, 0)


def message(kind, body):
    return head(kind, 8 + len(body)) + body


def hello(version=WIRE_VERSION, layout=LAYOUT_VERSION):
    return message(HELLO, struct.pack('=II', version, layout))


def offer(token, flags=0):
    return message(OFFER, struct.pack('=QII', token, flags, 0))


def withdraw(token, reason=0):
    return message(WITHDRAW, struct.pack('=QII', token, reason, 0))


def decline(token, session, reason=0):
    return message(DECLINE, struct.pack('=QQII', token, session, reason, 0))


def count(counts):
    numbers = [counts.get(name, 0) for name in REASONS]
    return message(COUNT, struct.pack(f'={len(REASONS)}Q', *numbers))


class Memory:
    """A mapped memfd; `fd` stays the caller's."""

    def __init__(self, fd, size, writable=True):
        self.map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))

    def u32(self, offset):
        return struct.unpack_from('=I', self.map, offset)[0]

    def u64(self, offset):
        return struct.unpack_from('=Q', self.map, offset)[0]

    def put32(self, offset, value):
        struct.pack_into('=I', self.map, offset, value)

    def put64(self, offset, value):
        struct.pack_into('=Q', self.map, offset, value)

    def close(self):
        self.map.close()


class Attached:
    """What came with an ATTACH. Closing it is closing the socket first, if it is known: the last holder's close."""

    socket = None

    def __init__(self, body, fds):
        self.token, self.session, self.ring_bytes, self.side, self.transport = struct.unpack('=QQQII', body)
        self.fds = list(fds)
        self.session_fd, self.end_fd, self.bell, self.peer_bell, self.lifeline = self.fds
        self.memory = Memory(self.session_fd, PAGE + 2 * self.ring_bytes)
        self.end = Memory(self.end_fd, PAGE)
        if not self.end.u32(END_TAKEN):
            self.end.put32(END_TAKEN, 1)
        self.socket = None      # where a test keeps the connection, if it does

    def was_rung(self):
        """Whether the bell was rung since it was last asked."""
        with select.epoll.fromfd(os.dup(self.bell)) as bell:
            return bool(bell.poll(0))

    def ring(self, index, offset):
        """An offset into session memory: of a field of ring 0 or 1."""
        return RING_OFFSET[index] + offset

    def let_go(self):
        """Gives up the session but not the socket, as if that were on its way to another process."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        self.memory.close()
        self.end.close()

    def close(self):
        if self.socket:
            self.socket.close()
        self.let_go()


class Refused:
    def __init__(self, body):
        self.token, reason, _ = struct.unpack('=QII', body)
        self.reason = REASONS[reason]


class Dropped(Exception):
    """The agent closed the connection."""


class Client:
    """A connection to an agent's client socket."""

    def __init__(self, directory, greet=True, timeout=10):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(timeout)
        self.socket.connect(os.path.join(directory, 'agent.sock'))
        self.board = None
        if greet:
            self.greet()

    def greet(self):
        self.send(hello())
        kind, body, fds = self.receive()
        assert kind == WELCOME
        self.version, self.layout, self.slot, _, self.instance = struct.unpack('=IIIIQ', body)
        assert len(fds) == 1
        self.board_fd = fds[0]
        self.board = Memory(self.board_fd, BOARD_BYTES, writable=False)

    def mail(self):
        return self.board.u32(PAGE + self.slot * BOARD_SLOT_BYTES)

    def send(self, packet, fds=()):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
        self.socket.sendmsg([packet], ancillary)

    def offer(self, token, sock, flags=0):
        self.send(offer(token, flags), [sock.fileno()])

    def receive(self):
        """Waits for one message: its type, the rest of it, and its descriptors."""
        size = array.array('i').itemsize
        try:
            packet, ancillary, flags, _ = self.socket.recvmsg(4096, socket.CMSG_LEN(8 * size))
        except ConnectionResetError:
            raise Dropped from None
        fds = array.array('i')
        for level, kind, data in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(data)
        if not packet and not fds:
            raise Dropped
        assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
        kind, length, zero = struct.unpack('=HHI', packet[:8])
        assert length == len(packet) and zero == 0
        return kind, packet[8:], list(fds)

    def answer(self):
        """Waits for an ATTACH or a REFUSED."""
        kind, body, fds = self.receive()
        if kind == ATTACH:
            return Attached(body, fds)
        assert kind == REFUSED and not fds
        return Refused(body)

    def attached(self):
        answer = self.answer()
        assert isinstance(answer, Attached), f'refused: {answer.reason}'
        return answer

    def refused(self):
        answer = self.answer()
        assert isinstance(answer, Refused)
        return answer.reason

    def has_mail(self, within=0.0):
        return bool(select.select([self.socket], [], [], within)[0])

    def is_dropped(self):
        try:
            self.receive()
        except Dropped:
            return True
        return False

    def close(self):
        self.socket.close()
        if self.board:
            self.board.close()
            os.close(self.board_fd)
            self.board = None


class RpcError(Exception):
    def __init__(self, error):
        super().__init__(error['message'])
        self.code = error['code']


class Control:
    """A connection to an agent's control socket."""

    def __init__(self, directory, timeout=10):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(os.path.join(directory, 'control.sock'))
        self.file = self.socket.makefile('rb')
        self.last_id = 0

    def raw(self, line):
        self.socket.sendall(line)
        return self.read()

    def read(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def call(self, method, **params):
        self.last_id += 1
        request = {'jsonrpc': '2.0', 'id': self.last_id, 'method': method, 'params': params}
        answer = self.raw(json.dumps(request).encode() + b'\n')
        assert answer['jsonrpc'] == '2.0' and answer['id'] == self.last_id
        if 'error' in answer:
            raise RpcError(answer['error'])
        return answer['result']

    def close(self):
        self.file.close()
        self.socket.close()
