"""A client of redis that checks every answer: redis_client.py PORT SCENARIO."""

import hashlib
import os
import random
import socket
import sys
import time


class Connection:
    """One connection that speaks RESP."""

    def __init__(self, port):
        self.sock = socket.create_connection(('127.0.0.1', port), timeout=30)
        self.stream = self.sock.makefile('rb')

    def send(self, *words):
        self.sock.sendall(encode(*words))

    def answer(self):
        line = self.stream.readline()
        if not line:
            raise EOFError
        kind, rest = line[:1], line[1:-2]
        if kind == b'+':
            return rest.decode()
        if kind == b'-':
            return Exception(rest.decode())
        if kind == b':':
            return int(rest)
        if kind == b'$':
            return None if rest == b'-1' else self.stream.read(int(rest) + 2)[:-2]
        assert kind == b'*', line
        return None if rest == b'-1' else [self.answer() for _ in range(int(rest))]

    def ask(self, *words):
        self.send(*words)
        return self.answer()

    def warm(self):
        """Exchanges enough, for long enough, that the connection is upgraded."""
        end, count = time.monotonic() + 0.2, 0
        while count < 50 or time.monotonic() < end:
            assert self.ask('PING') == 'PONG'
            count += 1


def encode(*words):
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b'*%d\r\n' % len(parts) + b''.join(b'$%d\r\n%s\r\n' % (len(part), part) for part in parts)


def values(port):
    """Values of all sizes come back as they were sent."""
    connection = Connection(port)
    connection.warm()
    for size in (0, 1, 100, 4095, 65536, 262144, 262145, 1 << 20, 8 << 20):
        for _ in range(3):
            value = os.urandom(size)
            assert connection.ask('SET', 'value', value) == 'OK'
            got = connection.ask('GET', 'value')
            assert hashlib.sha256(got).digest() == hashlib.sha256(value).digest(), f'{size}: got {len(got)} bytes'


def pipeline(port):
    """Thousands of commands sent without reading an answer, answers in order; sent in pieces of any size."""
    connection = Connection(port)
    connection.warm()
    count, chance = 20000, random.Random(7)
    commands = b''.join(encode('SET', f'p{i}', i * i) + encode('GET', f'p{i}') for i in range(count))
    reader_at, at = 0, 0
    while at < len(commands):
        piece = chance.choice((1, 17, 1000, 70000))
        connection.sock.sendall(commands[at:at + piece])
        at += piece
        complete = int(count * at / len(commands)) - 100
        while reader_at < min(complete, count):     # keeps the server from blocking on us
            assert connection.answer() == 'OK' and connection.answer() == b'%d' % (reader_at ** 2)
            reader_at += 1
    for i in range(reader_at, count):
        assert connection.answer() == 'OK' and connection.answer() == b'%d' % (i * i), i


def transactions(port):
    """MULTI and EXEC, DISCARD, and WATCH against a second connection."""
    one, two = Connection(port), Connection(port)
    one.warm()
    two.warm()
    assert one.ask('SET', 'counter', 1) == 'OK'
    assert one.ask('MULTI') == 'OK' and one.ask('INCR', 'counter') == 'QUEUED' and one.ask('GET', 'counter') == 'QUEUED'
    assert two.ask('GET', 'counter') == b'1'
    assert one.ask('EXEC') == [2, b'2'] and two.ask('GET', 'counter') == b'2'
    assert one.ask('WATCH', 'counter') == 'OK' and two.ask('INCR', 'counter') == 3
    assert one.ask('MULTI') == 'OK' and one.ask('SET', 'counter', 0) == 'QUEUED' and one.ask('EXEC') is None
    assert one.ask('MULTI') == 'OK' and one.ask('INCR', 'counter') == 'QUEUED' and one.ask('DISCARD') == 'OK'
    assert two.ask('GET', 'counter') == b'3'


def pubsub(port):
    """Messages reach each subscriber, once and in order."""
    subscribers = [Connection(port) for _ in range(5)]
    publisher = Connection(port)
    publisher.warm()
    for subscriber in subscribers:
        subscriber.warm()
        assert subscriber.ask('SUBSCRIBE', 'news') == [b'subscribe', b'news', 1]
    for i in range(500):
        assert publisher.ask('PUBLISH', 'news', f'{i} ' + 'x' * (i % 7) * 1000) == len(subscribers)
    for subscriber in subscribers:
        for i in range(500):
            kind, channel, text = subscriber.answer()
            assert (kind, channel) == (b'message', b'news') and text == (f'{i} ' + 'x' * (i % 7) * 1000).encode(), i


def client_kill(port):
    """A connection that the server cuts ends at once, in the middle of a wait; the others go on."""
    one, two = Connection(port), Connection(port)
    one.warm()
    two.warm()
    number = two.ask('CLIENT', 'ID')
    two.send('BLPOP', 'nothing', 0)
    time.sleep(0.2)
    assert one.ask('CLIENT', 'KILL', 'ID', number) == 1
    before = time.monotonic()
    try:
        two.answer()
        raise AssertionError('an answer on a killed connection')
    except (EOFError, ConnectionResetError):
        pass
    assert time.monotonic() - before < 5
    assert one.ask('PING') == 'PONG'


def blocking(port):
    """A blocked client wakes when there is something, and when its time is over."""
    one, two = Connection(port), Connection(port)
    one.warm()
    two.warm()
    for i in range(100):
        two.send('BLPOP', 'queue', 0)
        if i % 10 == 0:
            time.sleep(0.02)        # now it sleeps, and so does the server
        one.ask('RPUSH', 'queue', i)
        assert two.answer() == [b'queue', b'%d' % i]
    before = time.monotonic()
    assert two.ask('BLPOP', 'queue', 0.2) is None
    assert 0.15 < time.monotonic() - before < 2


def shutdown(port):
    """SHUTDOWN ends the connections of all clients."""
    one, two = Connection(port), Connection(port)
    one.warm()
    two.warm()
    two.send('BLPOP', 'nothing', 0)
    one.send('SHUTDOWN', 'NOSAVE')
    for connection in (one, two):
        try:
            raise AssertionError(f'an answer from a server that ended: {connection.answer()}')
        except (EOFError, ConnectionResetError):
            pass


globals()[sys.argv[2]](int(sys.argv[1]))
print('ok')
