"""Connections between two hosts that come into the hands of programs without the library."""

import pytest

from harness import PYTHON, free_port

# Talks until it has seen what it waits for, then becomes another program, with what has come since unread.
SERVER = '''
import os, socket, sys, time
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
connection, _ = listener.accept()
while (word := connection.recv(5)) != b'leave':
    connection.sendall(word)
assert connection.recv(1000, socket.MSG_WAITALL) == b'x' * 1000
time.sleep(0.3)
os.dup2(connection.fileno(), 0)
os.dup2(connection.fileno(), 1)
os.execve('/bin/cat', ['cat'], {})
'''

CLIENT = '''
import socket, sys, threading, time

def receive(size):
    got = bytearray()
    while len(got) < size and (data := connection.recv(size - len(got))):
        got += data
    return bytes(got)

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
end = time.monotonic() + 2
while time.monotonic() < end:
    connection.sendall(b'hello')
    assert receive(5) == b'hello'
stream = bytes(i * 31 % 256 for i in range(100000))
connection.sendall(b'leave' + b'x' * 1000 + stream[:50000])
time.sleep(float(sys.argv[3]))
assert receive(50000) == stream[:50000]
connection.sendall(stream[50000:])
assert receive(50000) == stream[50000:]
connection.shutdown(socket.SHUT_WR)
assert connection.recv(1) == b''
print('ok')
'''


@pytest.mark.parametrize('pause', [0, 2], ids=['waiting', 'computing'])
def test_a_program_without_the_library_takes_over(hosts, pause):
    """While the other end waits for it, or does something else for a while."""
    one, two = hosts
    port = free_port()
    server = two.serve([PYTHON, '-c', SERVER, two.address, port], port)
    client = one.spawn([PYTHON, '-c', CLIENT, two.address, port, pause])
    if not one.plain:
        one.wait_for_rings(), two.wait_for_rings()
    assert client.wait(40).out == 'ok\n'
    server.wait()
