"""Two hosts in one guest: two agents, each serving a namespace of its own, in which its programs run.

The agents are in the guest's first namespace, since soft-RoCE's device is there only; the programs' connections go over
a veth pair, and know nothing of the device.
"""

import json

import harness
import roce

KEY = 'a key for two hosts in one guest\n'
NAMES = 'a', 'b'
ADDRESSES = {'a': '10.8.0.1', 'b': '10.8.0.2'}     # of the programs
AGENTS = dict(zip(NAMES, roce.ADDRESSES))


def other(name):
    return 'b' if name == 'a' else 'a'


def make_namespaces():
    for name in NAMES:
        roce.run(f'ip netns add {name} && ip -n {name} link set lo up')
    roce.run('ip link add va type veth peer name vb')
    for name in NAMES:
        roce.run(f'ip link set v{name} netns {name} && ip -n {name} address add {ADDRESSES[name]}/24 dev v{name} && '
                 f'ip -n {name} link set v{name} up')


class RemoteHost(harness.Host):
    """A host with an agent of its own, all of whose programs run in its namespace."""

    def __init__(self, name, **config):
        self.name, self.address = name, ADDRESSES[name]
        self.peer_address = ADDRESSES[other(name)]
        self.enter = ['nsenter', f'--net=/run/netns/{name}']
        super().__init__(plain=True)
        self.plain = False
        self._place_library()
        self.write_config({**harness.EAGER, **self._peers(), **config})
        self.start_agent()

    def _peers(self):
        key = self.home / 'key'
        key.write_text(KEY)
        key.chmod(0o600)
        peer = other(self.name)
        return {
            'namespaces': [f'/run/netns/{self.name}'],
            'rdma': {'name': self.name, 'listen': [AGENTS[self.name]]},
            'peers': [{'name': peer, 'address': AGENTS[peer], 'networks': [f'{ADDRESSES[peer]}/32'],
                       'key_file': str(key)}],
        }

    def start_agent(self, user=None):
        """In the first namespace, unlike all else."""
        entering, self.enter = self.enter, ()
        try:
            super().start_agent(user)
        finally:
            self.enter = entering

    def listening(self, port):
        return bool(self.run(['ss', '-Hltn', f'sport = :{port}'], accelerated=False).out)

    def rdma_sessions(self):
        return [row for row in self.sessions() if row['transport'] == 'rdma']

    def link(self):
        """The row of the other host in `rdmactl peers`."""
        return self.call('peers')['peers'][0]

    def explain(self):
        return super().explain() + '\n' + json.dumps(self.call('peers') if self.daemon else None)
