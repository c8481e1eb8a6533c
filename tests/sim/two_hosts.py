"""Two hosts on one: network namespaces joined by a veth pair, an agent for each, over the simulated fabric.

`Network` makes the namespaces, once for a run. `SimAgent` is an agent in one of them, spoken to by its protocols
(agent_host.py), whose fabric takes orders (sim_orders.c).
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'agent'))

import agent_host  # noqa: E402

DAEMON = agent_host.BUILD / 'tests' / 'rdma-agent-sim'
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

KEY = 'a key that both hosts have, and nobody else'


def why_not():
    """Why namespaces cannot be made here, or None."""
    if os.geteuid() != 0:
        return 'network namespaces need root'
    if not shutil.which('ip') or not shutil.which('nsenter'):
        return 'network namespaces need the programs ip and nsenter'
    name = f'rdma-sim-try-{os.getpid()}'
    made = subprocess.run(['ip', 'netns', 'add', name], capture_output=True, text=True, timeout=10)
    if made.returncode != 0:
        return f'network namespaces cannot be made here: {made.stderr.strip()}'
    subprocess.run(['ip', 'netns', 'delete', name], timeout=10)
    return None


def ip(*arguments):
    subprocess.run(['ip', *arguments], check=True, timeout=10)


class Place:
    """A namespace with an address in it."""

    def __init__(self, namespace, address):
        self.namespace, self.address = namespace, address
        self.path = f'/run/netns/{namespace}'

    @property
    def enter(self):
        """The command that runs the command after it there."""
        return ['nsenter', f'--net={self.path}', '--']

    @contextlib.contextmanager
    def inside(self):
        """Sockets that are made meanwhile are of that namespace."""
        with open('/proc/self/ns/net') as home, open(self.path) as away:
            assert libc.setns(away.fileno(), CLONE_NEWNET) == 0
            try:
                yield
            finally:
                assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


class Container:
    """A namespace behind the one of a place, which passes its packets on, and the other place knows the way."""

    def __init__(self, place, other):
        self.host, self.other = place, other
        self.place = Place(f'{place.namespace}-inside', '10.79.0.2')

    def open(self):
        inside = self.place.namespace
        ip('netns', 'add', inside)
        ip('-n', self.host.namespace, 'link', 'add', 'inside', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', inside)
        ip('-n', self.host.namespace, 'address', 'add', '10.79.0.1/24', 'dev', 'inside')
        ip('-n', self.host.namespace, 'link', 'set', 'inside', 'up')
        for name in ('lo', 'eth0'):
            ip('-n', inside, 'link', 'set', name, 'up')
        ip('-n', inside, 'address', 'add', '10.79.0.2/24', 'dev', 'eth0')
        ip('-n', inside, 'route', 'add', 'default', 'via', '10.79.0.1')
        ip('-n', self.other.namespace, 'route', 'add', '10.79.0.0/24', 'via', self.host.address)
        subprocess.run([*self.host.enter, 'sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward'], check=True, timeout=10)

    def close(self):
        subprocess.run(['ip', '-n', self.other.namespace, 'route', 'delete', '10.79.0.0/24'], timeout=10)
        subprocess.run(['ip', 'netns', 'delete', self.place.namespace], timeout=10)


class Network:
    """Two places that reach each other, and a second address in the second one."""

    STRANGER = '10.78.0.3'

    def __init__(self):
        self.places = [Place(f'rdma-sim-{os.getpid()}-{i}', f'10.78.0.{i + 1}') for i in range(2)]

    def open(self):
        one, two = self.places
        for place in self.places:
            ip('netns', 'add', place.namespace)
            ip('-n', place.namespace, 'link', 'set', 'lo', 'up')
        ip('-n', one.namespace, 'link', 'add', 'wire', 'type', 'veth', 'peer', 'name', 'wire', 'netns', two.namespace)
        for place in self.places:
            ip('-n', place.namespace, 'address', 'add', place.address + '/24', 'dev', 'wire')
            ip('-n', place.namespace, 'link', 'set', 'wire', 'up')
        ip('-n', two.namespace, 'address', 'add', self.STRANGER + '/24', 'dev', 'wire')

    def close(self):
        for place in self.places:
            subprocess.run(['ip', 'netns', 'delete', place.namespace], timeout=10)


def peer(name, address, key_file, **more):
    return {'name': name, 'address': address, 'key_file': str(key_file), **more}


class Orders:
    """Orders for the simulated fabric of one agent."""

    def __init__(self, path):
        self.path = str(path)

    def __call__(self, order):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.settimeout(agent_host.PATIENCE)
            door.connect(self.path)
            door.send(order.encode())
            answer = door.recv(1024).decode()
        assert answer != 'not understood', order
        words = answer.split()
        return dict(zip(words[::2], map(int, words[1::2])))

    def count(self):
        return self('count')


class SimAgent(agent_host.Agent):
    """The agent of host `name` at `place`."""

    def __init__(self, directory, name, place, begin=''):
        super().__init__(directory, config={})
        self.name, self.place = name, place
        self.key_file = Path(directory) / 'key'
        self.write_key(KEY)
        self.order = Orders(Path(directory) / 'orders')
        self.begin = begin
        self.command[0] = str(DAEMON)
        self.command = place.enter + self.command

    def write_key(self, text):
        self.key_file.write_text(text)
        self.key_file.chmod(0o600)

    def configure(self, *peers, **more):
        rdma = {'name': self.name, **more.pop('rdma', {})}
        self.write_config({'peers': list(peers), 'rdma': rdma, 'upgrade': {'after_calls': 2}, **more})

    def config(self):
        return Path(self.config_file).read_text()

    def start(self, **popen):
        environment = dict(os.environ, RDMA_SIM_ORDERS=self.order.path, RDMA_SIM_BEGIN=self.begin)
        return super().start(env=environment, **popen)

    def peer_of(self, other, **more):
        """How this host's configuration names another one."""
        return peer(other.name, other.place.address, self.key_file, **more)

    def link(self):
        """The row of `rdmactl peers` for the only peer."""
        [row] = self.call('peers')['peers']
        return row

    def connect(self):
        self.call('peers.connect')

    def is_up(self):
        return self.link()['state'] == 'up'

    def is_down(self):
        return self.link()['state'] != 'up'

    def rss_kb(self):
        """Memory of the agent, in KiB."""
        return int(Path(f'/proc/{self.process.pid}/statm').read_text().split()[1]) * 4

    def refused(self):
        return self.call('peers')['refused']

    def connections(self):
        """Queue pairs, on a real device. Without peers there is no fabric to ask."""
        with contextlib.suppress(ConnectionRefusedError):
            return self.order.count()['connections']
        return 0


