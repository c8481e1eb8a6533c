"""Connections that say something short again and again, then stream both ways, every byte checked.

  talk.py server PORT CONNECTIONS BYTES
  talk.py client HOST PORT CONNECTIONS BYTES

Each prints "ok" when all connections ended as they should.
"""

import hashlib
import random
import socket
import sys
import threading

ROUNDS = 100
SIZES = (1, 100, 5000, 70000, 300000)


def converse(connection):
    for _ in range(ROUNDS):
        connection.sendall(b'a few bytes')
        assert connection.recv(11, socket.MSG_WAITALL) == b'a few bytes'


def pour(connection, data, chance):
    place = 0
    while place < len(data):
        size = chance.choice(SIZES)
        connection.sendall(data[place:place + size])
        place += size
    connection.shutdown(socket.SHUT_WR)


def drain(connection, chance):
    digest = hashlib.sha256()
    while part := connection.recv(chance.choice(SIZES)):
        digest.update(part)
    return digest.digest()


def talk(connection, mine, theirs, size, done):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    converse(connection)
    data = random.Random(mine).randbytes(size)
    thread = threading.Thread(target=pour, args=(connection, data, random.Random(mine + 2)))
    thread.start()
    received = drain(connection, random.Random(mine + 4))
    thread.join()
    assert received == hashlib.sha256(random.Random(theirs).randbytes(size)).digest(), 'wrong bytes'
    connection.close()
    done.append(1)


def main():
    done = []
    if sys.argv[1] == 'server':
        port, count, size = map(int, sys.argv[2:])
        with socket.create_server(('', port), backlog=1024) as listener:
            print('ready', flush=True)
            pairs = [(listener.accept()[0], 1, 2) for _ in range(count)]
    else:
        host, port, count, size = sys.argv[2], *map(int, sys.argv[3:])
        pairs = [(socket.create_connection((host, port)), 2, 1) for _ in range(count)]
    threads = [threading.Thread(target=talk, args=(*pair, size, done)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print('ok' if len(done) == count else f'{len(done)} of {count}', flush=True)


main()
