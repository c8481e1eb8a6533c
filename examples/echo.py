#!/usr/bin/env python3
"""A Python echo server (asyncio) and a client for it, plain sockets.

    echo.py server [--port PORT]             prints "listening on 127.0.0.1:PORT", serves until it is interrupted
    echo.py client --port PORT [--seconds S] [--size BYTES]
                                             prints the round trips per second
"""

import argparse
import asyncio
import socket
import time


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(port):
    server = await asyncio.start_server(echo, '127.0.0.1', port)
    print('listening on %s:%d' % server.sockets[0].getsockname(), flush=True)
    await server.serve_forever()


def round_trip(connection, message):
    connection.sendall(message)
    reply = bytearray()
    while len(reply) < len(message):
        data = connection.recv(len(message) - len(reply))
        if not data:
            raise SystemExit('echo.py: the server closed the connection')
        reply += data
    if reply != message:
        raise SystemExit('echo.py: the reply is not what was sent')


def measure(port, seconds, size):
    """Returns the round trips per second on one connection, after a short warm-up."""
    message = bytes(i % 251 for i in range(size))
    with socket.create_connection(('127.0.0.1', port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(200):
            round_trip(connection, message)
        count, begin = 0, time.monotonic()
        while (elapsed := time.monotonic() - begin) < seconds:
            round_trip(connection, message)
            count += 1
    return count / elapsed


def main():
    parser = argparse.ArgumentParser(description='A Python echo server and its client.')
    parser.add_argument('role', choices=['server', 'client'])
    parser.add_argument('--port', type=int, default=0)
    parser.add_argument('--seconds', type=float, default=2)
    parser.add_argument('--size', type=int, default=64)
    options = parser.parse_args()
    if options.role == 'client':
        print('%.0f round trips per second' % measure(options.port, options.seconds, options.size))
        return
    try:
        asyncio.run(serve(options.port))
    except KeyboardInterrupt:
        pass


if __name__ == '__main__':
    main()
