"""Many children, with pipes, sockets as their standard files, and a conversation that goes on meanwhile."""

import hashlib
import os
import socket
import subprocess
import sys
import threading


def receive_exactly(sock, size):
    got = bytearray()
    while len(got) < size:
        data = sock.recv(size - len(got))
        assert data, 'the stream ended too soon'
        got += data
    return bytes(got)


def connected_pair():
    with socket.create_server(('127.0.0.1', 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def exchange(client, server, count):
    for i in range(count):
        for one, other in ((client, server), (server, client)):
            one.sendall(b'%8d' % i)
            assert receive_exactly(other, 8) == b'%8d' % i


def converse(stop, client, server, failed):
    try:
        while not stop.is_set():
            exchange(client, server, 10)
    except Exception as error:
        failed.append(repr(error))


def children_with_pipes():
    for i in range(40):
        data = os.urandom(1000 * i)
        done = subprocess.run(['cat'], input=data, stdout=subprocess.PIPE, check=True)
        assert done.stdout == data
    text = subprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 3'], capture_output=True)
    assert (text.returncode, text.stdout, text.stderr) == (3, b'out\n', b'err\n')
    pipeline = subprocess.run('seq 20000 | sort -n | tail -1 | tee /dev/stderr', shell=True, capture_output=True)
    assert pipeline.stdout == pipeline.stderr == b'20000\n'


def child_talks_on_a_socket(warm):
    """`cat` with a connection as its standard input and output, as inetd would start it."""
    client, server = connected_pair()
    exchange(client, server, warm)
    child = subprocess.Popen(['cat'], stdin=server, stdout=server)
    server.close()
    data, got = os.urandom(3_000_000), bytearray()

    def read_all():
        while piece := client.recv(65536):
            got.extend(piece)

    reader = threading.Thread(target=read_all)
    reader.start()
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    reader.join()
    assert child.wait() == 0 and hashlib.sha256(got).digest() == hashlib.sha256(data).digest(), \
        f'{len(got)} of {len(data)} bytes'
    client.close()


def child_inherits_descriptor():
    """A child of another program text, which finds the connection under a number that it was told."""
    client, server = connected_pair()
    exchange(client, server, 50)
    code = ('import socket, sys\nsock = socket.socket(fileno=int(sys.argv[1]))\n'
            'for i in range(50):\n    sock.sendall(sock.recv(3))\n')
    child = subprocess.Popen([sys.executable, '-c', code, str(server.fileno())], pass_fds=[server.fileno()])
    for i in range(50):
        client.sendall(b'abc')
        assert receive_exactly(client, 3) == b'abc'
    assert child.wait() == 0
    exchange(client, server, 50)        # the parent goes on where the child stopped
    server.close()
    assert client.recv(1) == b''


def main():
    stop, failed = threading.Event(), []
    talker = threading.Thread(target=converse, args=(stop, *connected_pair(), failed))
    talker.start()
    try:
        children_with_pipes()
        child_talks_on_a_socket(0)
        child_talks_on_a_socket(50)
        child_inherits_descriptor()
    finally:
        stop.set()
        talker.join()
    assert not failed, failed
    print('ok')


main()
