"""Clients of an echo server that check every byte: echo_client.py PORT STYLE CONNECTIONS.

Each connection first exchanges small messages, then sends a stream of random pieces while the answers are read, ends
its half, and expects the whole stream back and then the end.
"""

import asyncio
import hashlib
import random
import socket
import sys
import threading

PORT, CONNECTIONS = int(sys.argv[1]), int(sys.argv[3])


def small_messages(chance):
    return [chance.randbytes(chance.choice((1, 10, 1000))) for _ in range(40)]


def stream(chance):
    return [chance.randbytes(chance.choice((1, 100, 4096, 65536, 300000))) for _ in range(20)]


def check(number, sent, received):
    assert len(received) == len(sent), f'connection {number}: sent {len(sent)} bytes, got {len(received)}'
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest(), f'connection {number}: bytes changed'


def receive_exactly(sock, size):
    got = bytearray()
    while len(got) < size:
        data = sock.recv(size - len(got))
        assert data, 'the stream ended too soon'
        got += data
    return bytes(got)


def receive_all(sock, into):
    while data := sock.recv(70000):
        into += data


def talk_blocking(number):
    """Two threads share the socket: one sends, one receives."""
    chance = random.Random(number)
    with socket.create_connection(('127.0.0.1', PORT), timeout=None if number % 2 else 60) as sock:
        for message in small_messages(chance):
            sock.sendall(message)
            check(number, message, receive_exactly(sock, len(message)))
        received = bytearray()
        reader = threading.Thread(target=receive_all, args=(sock, received))
        reader.start()
        pieces = stream(chance)
        for piece in pieces:
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        reader.join()
        check(number, b''.join(pieces), bytes(received))


def run_blocking():
    failed = []

    def guarded(number):
        try:
            talk_blocking(number)
        except Exception as error:
            failed.append(f'connection {number}: {error!r}')

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, '\n'.join(failed)


async def talk_asyncio(number):
    chance = random.Random(number)
    reader, writer = await asyncio.open_connection('127.0.0.1', PORT)
    for message in small_messages(chance):
        writer.write(message)
        check(number, message, await reader.readexactly(len(message)))
    pieces = stream(chance)

    async def transmit():
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    _, received = await asyncio.gather(transmit(), reader.read(-1))
    check(number, b''.join(pieces), received)
    writer.close()
    await writer.wait_closed()


def run_asyncio():
    async def main():
        await asyncio.gather(*map(talk_asyncio, range(CONNECTIONS)))

    asyncio.run(main())


globals()['run_' + sys.argv[2]]()
print('ok')
