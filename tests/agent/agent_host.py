"""An agent in a directory of its own, spoken to by its protocols alone: neither the library nor rdmactl take part."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

import protocol

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get('RDMA_BUILD', 'build')
DAEMON = BUILD / 'rdma-agent'
PATIENCE = 20.0


def wait_until(condition, what, timeout=PATIENCE):
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f'waited {timeout:g} s in vain until {what}'
        time.sleep(0.005)


class Agent:
    """A running agent, its connections, and the connections of TCP that tests offer to it."""

    def __init__(self, directory, config=None, arguments=()):
        self.base = directory
        self.directory = os.path.join(directory, 'run')
        self.config_file = os.path.join(directory, 'agent.json')
        self.log_file = os.path.join(directory, 'log')
        self.process = None
        self.open = []
        if config is not None:
            self.write_config(config)
        self.command = [str(DAEMON), '--runtime-dir', self.directory, '--log-level', 'debug', *arguments]
        if config is not None:
            self.command += ['--config', self.config_file]

    def write_config(self, config):
        text = config if isinstance(config, str) else json.dumps(config)
        Path(self.config_file).write_text(text)

    def start(self, **popen):
        with open(self.log_file, 'a') as log:
            self.process = subprocess.Popen(self.command, stderr=log, stdin=subprocess.DEVNULL, **popen)
        wait_until(self.answers, 'the agent listens')
        return self

    def answers(self):
        assert self.process.poll() is None, f'the agent exited with {self.process.returncode}: {self.log()}'
        try:
            protocol.Control(self.directory).close()
        except OSError:
            return False
        return True

    def log(self):
        return Path(self.log_file).read_text() if os.path.exists(self.log_file) else ''

    def stop(self):
        """A clean end: exit status 0 and no sockets left."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log()
        assert not os.path.exists(os.path.join(self.directory, 'agent.sock'))
        assert not os.path.exists(os.path.join(self.directory, 'control.sock'))
        self.process = None

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def close(self):
        for thing in reversed(self.open):
            with contextlib.suppress(OSError):
                thing.close()
        if self.process:
            assert self.process.poll() is None, f'the agent exited with {self.process.returncode}: {self.log()}'
            os.kill(self.process.pid, signal.SIGCONT)
            self.stop()
        assert 'runtime error' not in self.log() and 'Sanitizer' not in self.log(), self.log()

    def keep(self, thing):
        """Closes it at the end of the test."""
        self.open.append(thing)
        return thing

    def client(self, **options):
        return self.keep(protocol.Client(self.directory, **options))

    def client_of(self, uid):
        """A client of another user, which only root can make."""
        os.chmod(self.directory, 0o755)
        os.seteuid(uid)
        try:
            return self.client()
        finally:
            os.seteuid(0)

    def control(self):
        return self.keep(protocol.Control(self.directory))

    def call(self, method, **params):
        control = protocol.Control(self.directory)
        try:
            return control.call(method, **params)
        finally:
            control.close()

    def rows(self):
        return self.call('list')['sessions']

    def stats(self):
        return self.call('stats')

    def descriptors(self):
        return len(os.listdir(f'/proc/{self.process.pid}/fd'))

    def cpu_ns(self):
        return int(Path(f'/proc/{self.process.pid}/schedstat').read_text().split()[0])

    def settle(self):
        """Waits until the agent has done what it had to do."""
        def asleep():
            before = self.cpu_ns()
            time.sleep(0.02)
            return self.cpu_ns() == before
        wait_until(asleep, 'the agent sleeps')

    def connection(self, server='127.0.0.1', client=None, reuse_port=0):
        """The two ends of a TCP connection: of who connected, and of who accepted."""
        family = socket.AF_INET6 if ':' in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((server, 0))
            listener.listen()
            port = listener.getsockname()[1]
            connected = self.keep(socket.create_connection((client or server, port)))
            accepted = self.keep(listener.accept()[0])
        return connected, accepted

    def session(self, first=None, second=None):
        """Two attached ends of a new connection: of who connected, and of who accepted. Each has its `socket`."""
        first = first or self.client()
        second = second or self.client()
        self.last_token = getattr(self, 'last_token', 1000) + 2
        near, far = self.connection()
        first.offer(self.last_token, near)
        second.offer(self.last_token + 1, far)
        if first is second:
            ends = {end.token: end for end in (first.attached(), first.attached())}
        else:
            ends = {end.token: end for end in (first.attached(), second.attached())}
        ends[self.last_token].socket, ends[self.last_token + 1].socket = near, far
        ends[self.last_token].socket, ends[self.last_token + 1].socket = near, far
        return self.keep(ends[self.last_token]), self.keep(ends[self.last_token + 1])


@pytest.fixture
def make_agent():
    """Starts an agent: make_agent(config, arguments). All are ended, and judged, after the test."""
    agents = []
    directories = []

    def make(config=None, arguments=(), start=True, **popen):
        directory = tempfile.mkdtemp(prefix='rdma-agent-')
        directories.append(directory)
        os.chmod(directory, 0o755)
        agent = Agent(directory, config, arguments)
        agents.append(agent)
        return agent.start(**popen) if start else agent

    try:
        yield make
        for agent in agents:
            agent.close()
    finally:
        for agent in agents:
            if agent.process:
                agent.kill()
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def agent(make_agent):
    return make_agent()


def run_daemon(*arguments):
    """Runs the program to its end."""
    return subprocess.run([str(DAEMON), *arguments], capture_output=True, text=True, timeout=PATIENCE)


def without_prefix(text):
    """A log line as it was meant."""
    return re.sub(r'^(rdma-agent: \w+: |<\d>)', '', text, flags=re.MULTILINE)
