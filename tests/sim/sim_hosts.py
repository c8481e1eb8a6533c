"""Hosts as the end-to-end tests have them (harness.py), two of them, each in a namespace of its own."""

import contextlib
import time

import harness
import two_hosts
from harness import wait_until


class SimHost(harness.Host):
    """The host `name` at `place`, with its agent over the simulated fabric. Its agent is not started yet."""

    program = two_hosts.DAEMON

    def __init__(self, plain, name, place):
        self.name, self.place = name, place
        self.enter = place.enter
        self.config = {}
        self.began = False
        super().__init__(plain)

    def start_agent(self, user=None):
        if not self.began:
            return
        super().start_agent(user)

    def environment(self, accelerated=True, **more):
        return super().environment(accelerated, RDMA_SIM_ORDERS=self.home / 'orders', **more)

    def listening(self, port):
        with self.place.inside():
            return super().listening(port)

    def begin(self, others, **config):
        """Writes the configuration, in which `others` are peers, and starts the agent."""
        if self.plain:
            return
        key = self.home / 'key'
        key.write_text(two_hosts.KEY)
        key.chmod(0o600)
        peers = [two_hosts.peer(other.name, other.place.address, key) for other in others]
        self.config = {**harness.EAGER, 'peers': peers, 'rdma': {'name': self.name}, **config}
        self.write_config(self.config)
        self.began = True
        self.start_agent()

    @contextlib.contextmanager
    def at(self, place):
        """Programs that are started meanwhile are there, on the same host."""
        home, self.place, self.enter = self.place, place, place.enter
        try:
            yield
        finally:
            self.place, self.enter = home, home.enter

    @property
    def address(self):
        return self.place.address

    def order(self, text):
        return {} if self.plain else two_hosts.Orders(self.home / 'orders')(text)

    def link(self):
        [row] = self.call('peers')['peers']
        return row

    def far_sessions(self):
        """The rows of sessions with other hosts."""
        return [row for row in self.sessions() if row['transport'] == 'rdma']

    def far_rings(self):
        return [row for row in self.far_sessions() if row['tx_way'] == 'ring' and row['rx_way'] == 'ring']

    def wait_for_rings(self, count=1):
        """Waits until so many connections with other hosts are in their rings, both ways, or have been."""
        def there():
            seen = self.stats()['sessions']
            return len(self.far_rings()) >= count or seen['total'] - seen['rdma'] - seen['shm'] >= count

        if self.plain:
            time.sleep(0.5)
        else:
            wait_until(there, f'{count} connections are in their rings')


class Hosts:
    """Two hosts, of which each is the other's peer. Their link is up."""

    def __init__(self, plain, network, **config):
        self.both = [SimHost(plain, f'db{i + 1}', place) for i, place in enumerate(network.places)]
        self.one, self.two = self.both
        self.one.begin([self.two], **config)
        self.two.begin([self.one], **config)
        if not plain:
            self.one.call('peers.connect')
            wait_until(lambda: all(host.link()['state'] == 'up' for host in self), 'the link is up')

    def __iter__(self):
        return iter(self.both)

    def close(self):
        # A session ends when the programs on both of its hosts have.
        try:
            for host in self.both:
                host.end_programs()
        finally:
            try:
                self.one.close()
            finally:
                self.two.close()
