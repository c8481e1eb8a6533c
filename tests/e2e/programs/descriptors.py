"""How many files a program can open while it holds a connection that it has talked on."""

import errno
import os
import resource
import socket
import time

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
with socket.create_server(('127.0.0.1', 0)) as server:
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
end = time.monotonic() + 0.3
while time.monotonic() < end:
    client.sendall(b'word')
    assert peer.recv(4) == b'word'
    peer.sendall(b'back')
    assert client.recv(4) == b'back'

files = []
try:
    while True:
        files.append(os.open('/dev/null', os.O_RDONLY))
except OSError as error:
    assert error.errno == errno.EMFILE
print(len(files))
client.sendall(b'still there')
assert peer.recv(100) == b'still there'
