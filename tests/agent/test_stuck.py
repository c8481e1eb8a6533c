"""Descriptors whose closing takes its time must not hold the agent up.

close() is the agent's when the sender has closed its own copy first: of a TCP socket that lingers, or of a file whose
file system is a program of the sender's (FUSE), which need not answer.
"""

import array
import contextlib
import ctypes
import os
import signal
import socket
import struct
import threading
import time

import pytest

import protocol
from agent_host import wait_until

libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def stopped(agent):
    """The agent does not see what happens here before it is over."""
    os.kill(agent.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(agent.process.pid, signal.SIGCONT)


def lingering(agent):
    """A connection whose close takes a minute: there is data that the other end has no room for."""
    near, far = agent.connection()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 60))
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(1 << 20))
    return near, far


def send_and_close(client, packet, near, copies=1):
    client.socket.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [near.fileno()] * copies))])
    near.close()


@pytest.mark.parametrize('packet, copies', [(protocol.offer(1), 1), (protocol.withdraw(1), 1), (protocol.offer(1), 9)])
def test_a_lingering_socket(agent, packet, copies):
    client, other = agent.client(), agent.client()
    near, far = lingering(agent)
    with stopped(agent):
        send_and_close(client, packet, near, copies)
    before = time.monotonic()
    agent.session(other, other)
    assert time.monotonic() - before < 5
    far.settimeout(5)
    while far.recv(1 << 20):
        pass    # all of it arrives, and the end of stream


def test_a_lingering_socket_that_was_never_received(agent):
    """It goes with the connection of a client that is dropped."""
    client, other = agent.client(), agent.client()
    near, far = lingering(agent)
    with stopped(agent):
        client.send(b'nonsense')
        send_and_close(client, protocol.offer(1), near)
    before = time.monotonic()
    agent.session(other, other)
    assert time.monotonic() - before < 5


class StuckFileSystem:
    """A file system with one file, which can be opened; whoever closes it waits for `release`, or half a minute."""

    IN = struct.Struct('=IIQQIIII')
    INIT, OPEN, FLUSH, GETATTR, RELEASE, LOOKUP, FORGET, INTERRUPT = 26, 14, 25, 3, 18, 1, 2, 36

    def __init__(self, directory):
        self.directory = directory
        self.holds = True
        self.waiting = []
        self.fd = os.open('/dev/fuse', os.O_RDWR)
        options = f'fd={self.fd},rootmode=40000,user_id=0,group_id=0,allow_other'.encode()
        if libc.mount(b'stuck', os.fsencode(directory), b'fuse', 0, options) < 0:
            os.close(self.fd)
            raise OSError(ctypes.get_errno(), 'mount')
        threading.Thread(target=self.serve, daemon=True).start()

    def attributes(self, node):
        mode = 0o40755 if node == 1 else 0o100644
        return struct.pack('=QQQQQQIIIIIIIIII', node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 512, 0)

    def reply(self, unique, body=b'', error=0):
        with contextlib.suppress(OSError):
            os.write(self.fd, struct.pack('=IiQ', 16 + len(body), error, unique) + body)

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                request = os.read(self.fd, 1 << 18)
                _, opcode, unique, node, *_ = self.IN.unpack_from(request)
                if opcode == self.INIT:
                    self.reply(unique, struct.pack('=IIIIHHIIHH', 7, 31, 1 << 16, 0, 1, 1, 4096, 1, 0, 0) + bytes(28))
                elif opcode == self.LOOKUP:
                    self.reply(unique, struct.pack('=QQQQII', 2, 0, 0, 0, 0, 0) + self.attributes(2))
                elif opcode == self.GETATTR:
                    self.reply(unique, struct.pack('=QII', 0, 0, 0) + self.attributes(node))
                elif opcode == self.OPEN:
                    self.reply(unique, struct.pack('=QII', 1, 0, 0))
                elif opcode == self.FLUSH and self.holds:
                    self.waiting.append(unique)
                    timer = threading.Timer(30, self.release)
                    timer.daemon = True
                    timer.start()
                elif opcode == self.FLUSH:
                    self.reply(unique)
                elif opcode not in (self.FORGET, self.INTERRUPT):
                    self.reply(unique, error=0 if opcode == self.RELEASE else -38)

    def release(self):
        """Those who wait may go on, and nobody waits any more."""
        self.holds = False
        while self.waiting:
            self.reply(self.waiting.pop())

    def close(self):
        self.release()
        libc.umount2(os.fsencode(self.directory), 2)
        os.close(self.fd)


@pytest.fixture
def stuck(tmp_path):
    try:
        system = StuckFileSystem(str(tmp_path))
    except OSError as error:
        pytest.skip(f'FUSE cannot be used here: {error}')
    yield system
    system.close()


@pytest.mark.parametrize('packet, copies, dropped', [(protocol.offer(1), 1, False), (protocol.withdraw(1), 1, True),
                                                     (protocol.offer(1), 2, True)])
def test_a_file_that_cannot_be_closed(agent, stuck, packet, copies, dropped):
    client, other = agent.client(), agent.client()
    file = os.open(os.path.join(stuck.directory, 'file'), os.O_RDONLY)
    try:
        client.send(packet, [file] * copies)
        if dropped:
            assert client.is_dropped()
        else:
            assert client.refused() == 'not_tcp'
        wait_until(lambda: len(stuck.waiting) == copies, 'the agent waits for the file')
        before = time.monotonic()
        agent.session(other, other)
        assert time.monotonic() - before < 5
    finally:
        stuck.release()
        os.close(file)


def is_heard(agent):
    try:
        protocol.Client(agent.directory).close()
    except (BrokenPipeError, protocol.Dropped, ConnectionResetError):
        return False
    return True


def test_a_user_who_does_it_again_and_again(agent, stuck):
    client = agent.client()
    agent.settle()
    descriptors = agent.descriptors()
    path = os.path.join(stuck.directory, 'file')
    files = [os.open(path, os.O_RDONLY) for _ in range(12)]
    try:
        with pytest.raises((BrokenPipeError, protocol.Dropped, ConnectionResetError)):
            for token, file in enumerate(files):
                client.send(protocol.offer(token), [file])
                client.refused()
        wait_until(lambda: len(stuck.waiting) == 4, 'four wait')
        assert agent.descriptors() <= descriptors + 4
        with pytest.raises((BrokenPipeError, protocol.Dropped, ConnectionResetError)):
            protocol.Client(agent.directory)
        assert agent.stats()['clients'] == 0
    finally:
        stuck.release()
        for file in files:
            os.close(file)
    # When they are closed, the user is heard again.
    wait_until(lambda: agent.descriptors() < descriptors, 'they are closed')
    wait_until(lambda: is_heard(agent), 'the user is heard again')
    agent.session()
