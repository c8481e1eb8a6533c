"""A client of memcached that checks every answer: memcached_client.py PORT. Text and binary-safe values, many keys."""

import os
import socket
import sys
import threading


class Connection:
    def __init__(self, port):
        self.sock = socket.create_connection(('127.0.0.1', port), timeout=30)
        self.stream = self.sock.makefile('rb')

    def set(self, key, value):
        self.sock.sendall(b'set %s 0 0 %d\r\n' % (key, len(value)) + value + b'\r\n')
        line = self.stream.readline()
        assert line == b'STORED\r\n', line

    def get(self, *keys):
        self.sock.sendall(b'get ' + b' '.join(keys) + b'\r\n')
        found = {}
        while (line := self.stream.readline()) != b'END\r\n':
            word, key, _, size = line.split()
            assert word == b'VALUE', line
            found[key] = self.stream.read(int(size) + 2)[:-2]
        return found

    def command(self, text):
        self.sock.sendall(text + b'\r\n')
        return self.stream.readline()


def one_client(port, number, failed):
    try:
        connection = Connection(port)
        for i in range(300):
            key = b'k%d.%d' % (number, i % 20)
            value = os.urandom((i * 37) % 5000)
            connection.set(key, value)
            assert connection.get(key) == {key: value}
        for size in (100_000, 1_000_000, 7_000_000):
            key, value = b'large%d' % number, os.urandom(size)
            connection.set(key, value)
            assert connection.get(key, b'missing') == {key: value}, size
        assert connection.command(b'set n%d 0 0 1\r\n5' % number) == b'STORED\r\n'
        for i in range(100):
            assert connection.command(b'incr n%d 2' % number) == b'%d\r\n' % (7 + 2 * i)
        assert connection.command(b'delete n%d' % number) == b'DELETED\r\n'
    except Exception as error:
        failed.append(f'client {number}: {error!r}')


def main():
    failed = []
    threads = [threading.Thread(target=one_client, args=(int(sys.argv[1]), number, failed)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, '\n'.join(failed)
    print('ok')


main()
