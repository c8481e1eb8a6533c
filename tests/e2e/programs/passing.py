"""Connections handed from process to process: passing.py WHEN, one of "fresh", "upgraded".

A parent accepts connections, talks on them first if they are to be upgraded, and passes each through a Unix socket
(SCM_RIGHTS) to a worker, which echoes from then on. The parent closes its copy. The clients must not notice. They talk for
half a second at the least, since what was passed goes back to a ring only after a while.
"""

import multiprocessing
import multiprocessing.reduction
import os
import random
import socket
import sys
import time

CONNECTIONS, WARM = 8, 60


def receive_exactly(sock, size):
    got = bytearray()
    while len(got) < size:
        data = sock.recv(size - len(got))
        assert data, 'the stream ended too soon'
        got += data
    return bytes(got)


def worker(pipe):
    """Echoes on each passed connection until it ends."""
    for _ in range(CONNECTIONS):
        with socket.socket(fileno=multiprocessing.reduction.recv_handle(pipe)) as connection:
            while data := connection.recv(50000):
                connection.sendall(data)


def client(port, number):
    chance = random.Random(number)
    with socket.create_connection(('127.0.0.1', port)) as sock:
        i, end = 0, time.monotonic() + 0.5
        while i < 4 * WARM or time.monotonic() < end:
            message = chance.randbytes(chance.choice((5, 500, 20000)) if i >= WARM else 5)
            sock.sendall(message)
            assert receive_exactly(sock, len(message)) == message, f'client {number}, message {i}'
            i += 1
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b'', 'bytes after the end'
    os._exit(0)


def main():
    server = socket.create_server(('127.0.0.1', 0), backlog=50)
    port = server.getsockname()[1]
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context('spawn')
    echo = context.Process(target=worker, args=(theirs,))
    echo.start()
    for number in range(CONNECTIONS):
        pid = os.fork()
        if pid == 0:
            client(port, number)
        connection, _ = server.accept()
        if sys.argv[1] == 'upgraded':
            for _ in range(WARM):
                connection.sendall(receive_exactly(connection, 5))
        multiprocessing.reduction.send_handle(ours, connection.fileno(), echo.pid)
        connection.close()
        _, status = os.waitpid(pid, 0)
        assert status == 0, f'client {number}: status {status}'
    echo.join()
    assert echo.exitcode == 0
    print('ok')


if __name__ == '__main__':
    main()
