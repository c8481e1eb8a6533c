"""A control server that answers as the agent does, or as no agent should.

It runs in threads of the test. `answers` maps a method to its result, to an Error, or to a function of the parameters
that returns one of the two; `raw`, when set, gets each connection and its first line and sends what it likes.
"""

import contextlib
import json
import os
import socket
import threading
from pathlib import Path

VERSION = '0.1.0'


class Error(Exception):
    """A JSON-RPC error."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


LIMITS = {
    'sessions_per_user': 4096, 'ring_memory_per_user': 1 << 30, 'ring_memory': 4 << 30, 'rate_per_session': 0,
    'clients_per_user': 4096, 'offers_per_user': 16384,
}


def row(**fields):
    """One end of a session, as `list` reports it."""
    return dict({
        'id': 1, 'transport': 'shm', 'state': 'ring', 'pid': 4711, 'command': 'redis-server', 'uid': 999,
        'user': 'redis', 'local': '127.0.0.1:6379', 'remote': '127.0.0.1:40000', 'tx_bytes': 0, 'rx_bytes': 0,
        'tx_way': 'ring', 'rx_way': 'ring', 'ring_bytes': 524288, 'age_s': 12.5, 'tx_calls': 3, 'rx_calls': 4,
        'sleeps': 5, 'bells': 6, 'tx_full': 0,
    }, **fields)


def stats(**fields):
    """The agent's counters, as `stats` reports them."""
    return dict({
        'agent': {'version': VERSION, 'pid': 4000, 'uptime_s': 7384.5, 'runtime_dir': '/run/rdma-agent',
                  'config': '/etc/rdma-agent/agent.json', 'instance': '0123456789abcdef'},
        'clients': 3, 'clients_refused': 1,
        'offers': {'total': 40, 'waiting': 1, 'refused': 2, 'withdrawn': 3, 'replaced': 4},
        'sessions': {'shm': 2, 'rdma': 0, 'total': 17, 'declined': 1, 'recalled': 4, 'ends_left': 6},
        'ring_memory': {'bytes': 1572864, 'pooled_bytes': 524288, 'limit_bytes': 4 << 30},
        'bytes': {'tx': 1234567890, 'rx': 987},
        'reasons': {'policy_port': 2, 'no_memory': 0, 'pinned': 5},
        'protocol_errors': 0,
        'links': {'peers': 2, 'up': 1, 'refused': 3},
        'users': [{'uid': 999, 'user': 'redis', 'sessions': 2, 'ring_bytes': 1048576}],
    }, **fields)


def status(**fields):
    """What `status` tells the doctor of a healthy agent."""
    return dict({
        'version': VERSION, 'pid': os.getpid(), 'runtime_dir': '/run/rdma-agent', 'config': None,
        'policy': {'upgrade': {'enabled': True}, 'limits': dict(LIMITS, ring_memory=1 << 20)},
        'namespaces': ['self'],
    }, **fields)


def peer(**fields):
    """One peer, as `peers` reports it."""
    return dict({
        'name': 'db2', 'address': '10.0.0.2:4792', 'networks': ['10.0.0.2/32'], 'state': 'up', 'device': 'rxe0',
        'rtt_us': 43, 'since_s': 725.0, 'times_up': 1, 'failures': 0, 'sessions': 12, 'tx_bytes': 1572864,
        'rx_bytes': 987, 'error': None,
    }, **fields)


def peers(*rows):
    return {'host': 'db1', 'listening': ['[::]:4792'], 'refused': 2, 'peers': list(rows)}


class FakeAgent:
    """Listens in `directory` until close()."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.answers = {'list': {'sessions': []}, 'stats': stats(), 'status': status(), 'limit.get': {'limits': LIMITS},
                        'fallback': {'recalled': 1}, 'peers': peers(), 'peers.connect': peers(),
                        'reload': {'config': '/etc/rdma-agent/agent.json', 'changed': []}}
        self.raw = None
        self.requests = []
        self._closing = threading.Event()
        self._listener = self._listen(socket.SOCK_STREAM, 'control.sock')
        self._clients = self._listen(socket.SOCK_SEQPACKET, 'agent.sock')
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _listen(self, kind, name):
        listener = socket.socket(socket.AF_UNIX, kind)
        path = self.directory / name
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(16)
        return listener

    def _serve(self):
        while not self._closing.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection):
        # The other side may be gone at any time: that is its business.
        with connection, contextlib.suppress(OSError):
            for line in connection.makefile('rb'):
                self.requests.append(json.loads(line))
                if self.raw:
                    self.raw(connection, line)
                    return
                connection.sendall(self._answer(self.requests[-1]))

    def _answer(self, request):
        answer = {'jsonrpc': '2.0', 'id': request['id']}
        try:
            answer['result'] = self._result(request)
        except Error as error:
            answer['error'] = {'code': error.code, 'message': error.message}
        return json.dumps(answer).encode() + b'\n'

    def _result(self, request):
        result = self.answers.get(request['method'], Error(-32601, 'there is no method "%s"' % request['method']))
        if callable(result):
            result = result(request['params'])
        if isinstance(result, Error):
            raise result
        return result

    def wait(self, seconds):
        """Lets time pass, but not beyond close(). For `raw` functions that are slow."""
        self._closing.wait(seconds)

    def close(self):
        self._closing.set()
        for listener in self._listener, self._clients:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._thread.join(5)
