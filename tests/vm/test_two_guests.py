"""Two guests, each a host with a kernel and an agent of its own: a wire that is cut, and a host that dies."""

import json
import shlex
import socket
import time

import pytest

import guest
import harness
import test_vm

ADDRESSES = {'a': '10.7.0.1', 'b': '10.7.0.2'}
PORT = 7000
MEBIBYTE = 1 << 20
PATIENCE = 60       # two guests on two CPUs are slow

pytestmark = test_vm.pytestmark


def other(name):
    return 'b' if name == 'a' else 'a'


class RemoteHost:
    """The one that obeys in a guest: see inside/serve.py."""

    def __init__(self, kernel, name, net):
        self.name, self.address = name, ADDRESSES[name]
        results = harness.BUILD / f'vm/guest-{name}'
        guest.clear(results)
        words = [harness.PYTHON, test_vm.HERE / 'inside/serve.py', name, self.address, other(name),
                 ADDRESSES[other(name)]]
        script = (f'cd {shlex.quote(str(harness.ROOT))}\nexport RDMA_BUILD={shlex.quote(str(harness.BUILD))}\n'
                  f'exec {shlex.join(map(str, words))}\n')
        number = 1 if name == 'a' else 2
        self.guest = guest.Guest(kernel, results, script, net=net, memory='1500M', mac=f'52:54:00:00:00:0{number}')
        self.orders = 0

    def _answer(self, number, seconds):
        path = self.guest.results / f'answer-{number}'
        deadline = time.monotonic() + seconds
        while not path.exists():
            alive = self.guest.process.poll() is None and not self.guest.read('status')
            assert alive and time.monotonic() < deadline, (
                f'{self.name}: no answer\n{self.guest.read("out")}\n{self.guest.read("console")[-3000:]}')
            time.sleep(0.05)
        answer = json.loads(path.read_text())
        assert 'error' not in answer, f'{self.name}: {answer["error"]}'
        return answer['result']

    def wait_for_start(self):
        self._answer(0, test_vm.BOOT_SECONDS)

    def __getattr__(self, method):
        def order(*words):
            self.orders += 1
            path = self.guest.results / 'order.new'
            path.write_text(json.dumps([method, *words], default=str))
            path.rename(self.guest.results / f'order-{self.orders}')
            return self._answer(self.orders, 3 * PATIENCE)

        return order

    def link(self):
        return self.call('peers')['peers'][0]

    def is_up(self):
        return self.link()['state'] == 'up'


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def guests():
    kernel = test_vm.get_kernel()
    port = free_port()
    a = RemoteHost(kernel, 'a', f'socket,listen=127.0.0.1:{port}')
    time.sleep(0.5)
    b = RemoteHost(kernel, 'b', f'socket,connect=127.0.0.1:{port}')
    try:
        for one in a, b:
            one.wait_for_start()
        yield a, b
    finally:
        for one in a, b:
            one.guest.end()


def wait_until(condition, what):
    harness.wait_until(condition, what, timeout=PATIENCE, every=0.2)


def exact(a, b, name, size, port):
    common = [harness.built_program('exact'), '--seed', 1, '--connections', 2, '--loop', 'epoll', '--holders', 'one',
              '--seconds', 100, '--address', b.address, '--port', port, '--client-ports', port + 1000, '--bytes', size]
    b.serve(name, [*common, '--role', 'server'], port)
    a.start(name, [*common, '--role', 'client'])


def expect_exact(name, *hosts):
    for host in hosts:
        result = host.wait(name, 2 * PATIENCE)
        assert result['out'] == 'ok, seed 1\n', (host.name, result, host.agent_log())


def test_two_kernels(guests):
    """One after the other in the same two guests, since booting them takes long."""
    a, b = guests
    a.call('peers.connect')
    wait_until(lambda: a.is_up() and b.is_up(), 'the link is up')
    carry(a, b)
    cut_and_mend(a, b)
    lose_a_host(a, b)


def carry(a, b):
    exact(a, b, 'first', 2 * MEBIBYTE, PORT)
    expect_exact('first', a, b)
    for host in a, b:
        stats = host.call('stats')
        assert stats['sessions']['total'] > 0 and stats['bytes']['rx'] > 100_000, (host.name, stats)
    assert a.link()['device'] == 'rxe0'


def cut_and_mend(a, b):
    """The dead link is noticed; when the wire is whole again, it comes up, and what it carries is accelerated."""
    a.guest.set_wire(False)
    wait_until(lambda: not a.is_up() and not b.is_up(), 'both have noticed that the other host is silent')
    a.guest.set_wire(True)
    a.call('peers.connect')
    wait_until(lambda: a.is_up() and b.is_up(), 'the link is up again')
    before = a.call('stats')['bytes']['rx']
    exact(a, b, 'second', 2 * MEBIBYTE, PORT + 1)
    expect_exact('second', a, b)
    assert a.call('stats')['bytes']['rx'] > before


def lose_a_host(a, b):
    b.guest.end()
    wait_until(lambda: not a.is_up(), 'the other host has noticed')
    assert a.call('stats')['links']['up'] == 0
    assert 'error' not in a.call('list')
