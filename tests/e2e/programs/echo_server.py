"""An echo server in the style given: echo_server.py PORT STYLE. It ends with SIGTERM."""

import asyncio
import collections
import os
import select
import selectors
import signal
import socket
import socketserver
import sys

CHUNK = 100000


def listener(port):
    """A listening socket; "activated" stands for the one that this program was started with."""
    if port == 'activated':
        assert (os.environ['LISTEN_FDS'], os.environ['LISTEN_PID']) == ('1', str(os.getpid()))
        return socket.socket(fileno=3)
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(('127.0.0.1', port))
    server.listen(100)
    return server


def run_asyncio(port):
    """asyncio's streams: edge- and level-triggered waits are the library's business."""
    async def echo(reader, writer):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, '127.0.0.1', port, backlog=100)
        await server.serve_forever()

    asyncio.run(main())


def echo_blocking(connection):
    while data := connection.recv(CHUNK):
        connection.sendall(data)


class BlockingHandler(socketserver.BaseRequestHandler):
    def handle(self):
        echo_blocking(self.request)


class StreamHandler(socketserver.StreamRequestHandler):
    """Through Python's buffered files, which read and write the descriptor themselves."""

    def handle(self):
        while data := self.rfile.read1(CHUNK):
            self.wfile.write(data)


def run_socketserver(server_class, handler, port):
    server_class.allow_reuse_address = True
    server_class.request_queue_size = 100
    with server_class(('127.0.0.1', port), handler) as server:
        server.serve_forever()


def run_threading(port):
    run_socketserver(socketserver.ThreadingTCPServer, BlockingHandler, port)


def run_files(port):
    run_socketserver(socketserver.ThreadingTCPServer, StreamHandler, port)


def run_forking(port):
    run_socketserver(socketserver.ForkingTCPServer, BlockingHandler, port)


class Ready:
    """One thread, non-blocking sockets: `wait(wanted)` says which descriptors can be read or written."""

    def __init__(self, port):
        self.listener = listener(port)
        self.listener.setblocking(False)
        self.sockets, self.pending, self.ended = {}, collections.defaultdict(bytearray), set()

    def serve(self, wait):
        while True:
            reading = [self.listener.fileno()] + [fd for fd in self.sockets
                                                  if fd not in self.ended and len(self.pending[fd]) < 1 << 20]
            writing = [fd for fd in self.sockets if self.pending[fd]]
            readable, writable = wait(reading, writing)
            for fd in readable:
                self.accept() if fd == self.listener.fileno() else self.receive(fd)
            for fd in writable:
                self.transmit(fd)

    def accept(self):
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        self.sockets[connection.fileno()] = connection

    def receive(self, fd):
        data = self.sockets[fd].recv(CHUNK)
        self.pending[fd] += data
        if not data:
            self.ended.add(fd)
            self.finish(fd)

    def transmit(self, fd):
        if fd in self.sockets:
            del self.pending[fd][:self.sockets[fd].send(self.pending[fd])]
            self.finish(fd)

    def finish(self, fd):
        if fd in self.ended and not self.pending[fd]:
            self.sockets.pop(fd).close()
            self.ended.discard(fd)


def run_select(port):
    def wait(reading, writing):
        readable, writable, _ = select.select(reading, writing, [])
        return readable, writable

    Ready(port).serve(wait)


def run_poll(port):
    def wait(reading, writing):
        poll = select.poll()
        for fd in {*reading, *writing}:
            poll.register(fd, select.POLLIN * (fd in reading) | select.POLLOUT * (fd in writing))
        events = poll.poll()
        return [fd for fd, event in events if fd in reading and event & ~select.POLLOUT], \
            [fd for fd, event in events if fd in writing and event & select.POLLOUT]

    Ready(port).serve(wait)


def run_selectors(port):
    """An epoll set that lives on, with its interests modified all the time."""
    selector, known = selectors.EpollSelector(), {}

    def update(wanted):
        for fd in set(known) - set(wanted):
            del known[fd]
            try:
                selector.unregister(fd)
            except (KeyError, ValueError):
                pass
        for fd, events in wanted.items():
            if fd not in known:
                selector.register(fd, events)
            elif known[fd] != events:
                selector.modify(fd, events)
            known[fd] = events

    def wait(reading, writing):
        update({fd: selectors.EVENT_READ * (fd in reading) | selectors.EVENT_WRITE * (fd in writing)
                for fd in {*reading, *writing}})
        events = [(key.fd, mask) for key, mask in selector.select()]
        return [fd for fd, mask in events if mask & selectors.EVENT_READ], \
            [fd for fd, mask in events if mask & selectors.EVENT_WRITE]

    Ready(port).serve(wait)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
globals()['run_' + sys.argv[2]](sys.argv[1] if sys.argv[1] == 'activated' else int(sys.argv[1]))
