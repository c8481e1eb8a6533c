"""Unmodified programs on two hosts, whose connections go through rings, links and the simulated fabric."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import two_hosts
from harness import BUILD, PYTHON, built_program, free_port, wait_until

# What takes its time, and has nothing in it that other tests do not show to a sanitizer.
unsanitized = pytest.mark.skipif('san' in BUILD.name, reason='takes long, and tells a sanitizer nothing new')

LOOPS = ['threads', 'poll', 'epoll', 'epoll-edge']


class Exact:
    """tests/e2e/exact in two programs: the server on one host, the clients on the other."""

    def __init__(self, server, client, chance, *options, connections=8, holders='one', loop='epoll', seconds=60):
        self.seed = chance.randrange(1 << 48)
        port = free_port()
        ports = chance.randrange(5000, 14000)     # below those that the kernel gives
        common = [built_program('exact'), '--seed', self.seed, '--connections', connections, '--loop', loop, '--holders',
                  holders, '--seconds', seconds, '--address', server.address, '--port', port, '--client-ports', ports,
                  *options]
        self.server = server.serve([*common, '--role', 'server'], port)
        self.client = client.spawn([*common, '--role', 'client'])

    def finish(self, timeout=70):
        for program in (self.client, self.server):
            result = program.wait(timeout)
            assert result.out == f'ok, seed {self.seed}\n', repr(result)

    def running(self):
        return self.client.running() and self.server.running()


def expect_far(host, at_least):
    """Fails unless that many bytes went through rings and the link. On a busy machine that may be one way only: a stream
    can be over before its sender hears that it may use the ring."""
    if not host.plain:
        wait_until(lambda: sum(host.stats()['bytes'].values()) >= at_least, f'{at_least} bytes have gone through rings')
        assert host.link()['tx_bytes'] + host.link()['rx_bytes'] >= at_least, host.call('peers')


ECHO_SERVER = '''
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
'''

SLOW_CLIENT = '''
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    connection.sendall(b'hello')
    assert connection.recv(100)
    time.sleep(0.01)
'''


def python(*words):
    return [PYTHON, '-c', *words]


def test_a_session_shows_on_both_hosts(hosts):
    one, two = hosts
    port = free_port()
    two.serve(python(ECHO_SERVER, two.address, port), port)
    client = one.spawn(python(SLOW_CLIENT, two.address, port))
    one.wait_for_rings(), two.wait_for_rings()
    if not one.plain:
        [near], [far] = one.far_sessions(), two.far_sessions()
        assert near['transport'] == far['transport'] == 'rdma'
        assert near['local'] == far['remote'] and near['remote'] == far['local'] == f'{two.address}:{port}'
        assert near['pid'] == client.pid
        assert one.stats()['sessions']['rdma'] == two.stats()['sessions']['rdma'] == 1
        assert one.link()['sessions'] == two.link()['sessions'] == 1
        assert one.order('count')['connections'] == 1
    client.send(signal.SIGTERM)
    if not one.plain:
        wait_until(lambda: not one.sessions() and not two.sessions(), 'the session is over on both hosts')
        assert one.link()['sessions'] == 0
        assert one.order('count')['memories'] == 0


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('holders', ['one', 'fork', 'split'])
def test_every_byte(make_hosts, chance, loop, holders):
    config = {'upgrade': {'after_calls': chance.choice((1, 2, 20))}, 'rings': {'bytes': 1 << chance.randrange(14, 20)}}
    print(json.dumps(config))
    one, two = make_hosts(**config)
    server, client = chance.sample((one, two), 2)
    Exact(server, client, chance, '--bytes', 8 << 20, holders=holders, loop=loop).finish()
    expect_far(one, 10_000)
    expect_far(two, 10_000)


def test_both_ways_at_once_with_delays(hosts, chance):
    """Latency."""
    one, two = hosts
    for host in hosts:
        host.order('delay 0 3000')
    first = Exact(one, two, chance, '--bytes', 4 << 20)
    second = Exact(two, one, chance, '--bytes', 4 << 20)
    first.finish(), second.finish()
    expect_far(one, 10_000)


@pytest.fixture
def container(network):
    made = two_hosts.Container(network.places[1], network.places[0])
    try:
        made.open()
        yield made.place
    finally:
        made.close()


def test_an_end_in_a_container(make_hosts, container, chance):
    """A namespace that the configuration names, with an address that its host may speak for."""
    one, two = make_hosts()
    if not one.plain:
        peers = [{**one.config['peers'][0], 'networks': [two.address, '10.79.0.0/24']}]
        one.write_config({**one.config, 'peers': peers})
        two.write_config({**two.config, 'namespaces': [two.place.path, container.path]})
        for host in (one, two):
            host.call('reload')
        wait_until(lambda: all(host.link()['state'] == 'up' for host in (one, two)), 'the link is up')
    with two.at(container):
        load = Exact(two, one, chance, '--bytes', 32 << 20)
    load.finish()
    expect_far(one, 100_000)
    expect_far(two, 100_000)


def test_short_connections(make_hosts, chance):
    """Streams of a few bytes, which often end while their upgrade is under way."""
    one, two = make_hosts(upgrade={'after_calls': 1})
    for loop in LOOPS:
        Exact(one, two, chance, '--bytes', 3000, connections=60, loop=loop).finish()


def test_within_a_host_memory_is_still_shared(hosts, chance):
    """Both kinds at once, on one host."""
    one, two = hosts
    near = Exact(one, one, chance, '--bytes', 8 << 20)
    far = Exact(one, two, chance, '--bytes', 8 << 20)
    near.finish(), far.finish()


def redis(host, *options):
    port = free_port()
    host.serve(['redis-server', '--port', port, '--bind', host.address, '--dir', host.home, '--save', '',
                '--protected-mode', 'no', *options], port)
    return port


def test_redis(hosts):
    one, two = hosts
    port = redis(two)
    lines = [f'SET key{i} value{i}\nGET key{i}' for i in range(300)]
    said = one.run(['redis-cli', '-h', two.address, '-p', port], input='\n'.join(lines)).out
    assert said.strip() == '\n'.join(f'OK\nvalue{i}' for i in range(300))
    for options in (['-c', 1, '-n', 1000], ['-c', 20, '-n', 10000, '-P', 16], ['-c', 4, '-n', 200, '-d', 100000]):
        result = one.run(['redis-benchmark', '-h', two.address, '-p', port, '--csv', '-t', 'set,get', '-r', 10, *options])
        assert len(re.findall(r'^"(SET|GET)"', result.out, re.MULTILINE)) == 2, repr(result)
    expect_far(one, 10_000_000)


def test_a_program_is_killed(hosts):
    """The other side sees the end of the connection, and neither agent keeps anything."""
    one, two = hosts
    port = redis(two)
    load = one.spawn(['redis-benchmark', '-h', two.address, '-p', port, '-t', 'set', '-n', 100_000_000, '-c', 5])
    one.wait_for_rings(5)
    load.kill()
    wait_until(lambda: 'connected_clients:1' in one.run(['redis-cli', '-h', two.address, '-p', port, 'INFO', 'clients']
                                                        ).out, 'the server sees that they are gone')
    if not one.plain:
        wait_until(lambda: not one.far_rings() and not two.far_rings(), 'the sessions are over on both hosts')


def test_a_server_is_killed(hosts):
    one, two = hosts
    port = redis(two)
    server = two.programs[-1]
    load = one.spawn(['redis-benchmark', '-h', two.address, '-p', port, '-t', 'set', '-n', 100_000_000, '-c', 5])
    one.wait_for_rings(5)
    server.kill()
    assert load.wait(check=False).code != 0


# Both begin with some small messages and a pause, for the connection to get into its ring.
FLOOD = '''
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for i in range(20):
    connection.sendall(b'x')
    time.sleep(0.05)
connection.sendall(bytes(int(sys.argv[3])))
connection.close()
'''

DRINK = '''
import socket, sys, time
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
connection, _ = listener.accept()
for i in range(20):
    connection.recv(1)
time.sleep(float(sys.argv[3]))
count = 0
while data := connection.recv(65536):
    count += len(data)
print(count)
'''


@pytest.mark.parametrize('pause', [0, 1])
@pytest.mark.parametrize('size', [1, 200_000, 5_000_000])
def test_closing_with_data_in_flight(hosts, size, pause):
    """The writer is gone long before its last byte is read."""
    one, two = hosts
    for host in hosts:
        host.order('delay 2000')
    port = free_port()
    reader = two.serve(python(DRINK, two.address, port, pause), port)
    one.run(python(FLOOD, two.address, port, size))
    assert reader.wait().out == f'{size}\n'
    expect_far(two, size)


@unsanitized
def test_a_slow_session_holds_up_no_other(hosts):
    one, two = hosts
    slow = free_port()
    reader = two.serve(python(DRINK, two.address, slow, 6), slow)
    writer = one.spawn(python(FLOOD, two.address, slow, 50_000_000))
    port = redis(two)
    begin = time.monotonic()
    result = one.run(['redis-benchmark', '-h', two.address, '-p', port, '-t', 'get', '-n', 2000, '-c', 5, '--csv'])
    assert '"GET"' in result.out and reader.running() and writer.running()
    assert time.monotonic() - begin < 5
    writer.wait()
    assert reader.wait().out == '50000000\n'


MANY_SERVER = '''
import selectors, socket, sys
selector = selectors.DefaultSelector()
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1000)
selector.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            connection, _ = listener.accept()
            selector.register(connection, selectors.EVENT_READ)
        elif data := key.fileobj.recv(65536):
            key.fileobj.sendall(data)
        else:
            selector.unregister(key.fileobj)
            key.fileobj.close()
'''

MANY_CLIENT = '''
import resource, socket, sys
count = int(sys.argv[3])
connections = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for i in range(count)]
turn = 0
while True:
    turn += 1
    for i, connection in enumerate(connections):
        connection.sendall(b'%d %d' % (turn, i))
    for i, connection in enumerate(connections):
        expected = b'%d %d' % (turn, i)
        assert connection.recv(100) == expected, (turn, i)
'''


def test_a_thousand_sessions_on_one_link(make_hosts):
    one, two = make_hosts(rings={'bytes': 16384})
    port = free_port()
    limit = ['prlimit', '--nofile=20000']
    two.serve(limit + python(MANY_SERVER, two.address, port), port)
    client = one.spawn(limit + python(MANY_CLIENT, two.address, port, 1000))
    if not one.plain:
        wait_until(lambda: len(one.far_rings()) >= 1000, 'all are in their rings', timeout=60)
        assert one.order('count')['connections'] == two.order('count')['connections'] == 1
    time.sleep(1)
    assert client.running(), repr(client.result())


@unsanitized
def test_the_rate_limit(make_hosts):
    one, two = make_hosts(limits={'rate_per_session': '2MiB'})
    port = free_port()
    reader = two.serve(python(DRINK, two.address, port, 0), port)
    begin = time.monotonic()
    one.run(python(FLOOD, two.address, port, 8 << 20))
    assert reader.wait().out == f'{8 << 20}\n'
    if not one.plain:
        assert 2 < time.monotonic() - begin < 8


# What happens to the link, or to an agent, in the middle of everything: connections go on over TCP, and come back.

TROUBLES = ['cut', 'fail 40', 'fail-late 40', 'tear 20', 'device off']


@pytest.mark.parametrize('trouble', TROUBLES)
@pytest.mark.parametrize('holders', ['one', 'fork', 'split'])
def test_a_link_fails_under_load(hosts, chance, trouble, holders):
    one, two = hosts
    load = Exact(two, one, chance, '--bytes', 40 << 20, holders=holders)
    one.wait_for_rings()
    for host in hosts:
        host.expected_complaints.append('')
    one.order(trouble)
    time.sleep(0.3)
    if trouble == 'device off':
        one.order('device on')
    load.finish()


@unsanitized
@pytest.mark.parametrize('which', ['one', 'two'])
def test_an_agent_is_killed_under_load(hosts, chance, which):
    one, two = hosts
    load = Exact(two, one, chance, '--bytes', 40 << 20, seconds=20)
    one.wait_for_rings()
    victim = getattr(hosts, which)
    victim.kill_agent()
    time.sleep(0.5)
    victim.start_agent()
    load.finish()


def test_a_dead_host_under_load(hosts, chance):
    """Neither agent hears the other, while TCP still works."""
    one, two = hosts
    load = Exact(two, one, chance, '--bytes', 40 << 20)
    one.wait_for_rings()
    two.order('silent on')
    load.finish()
    two.order('silent off')


@unsanitized
def test_an_agent_hangs_under_load(hosts, chance):
    one, two = hosts
    load = Exact(two, one, chance, '--bytes', 40 << 20)
    one.wait_for_rings()
    two.signal_agent(signal.SIGSTOP)
    time.sleep(5)
    two.signal_agent(signal.SIGCONT)
    load.finish()


@unsanitized
def test_both_agents_hang_under_load(hosts, chance):
    """The programs see it by themselves, however they wait, and need no agent to go on; nor do agents that come back."""
    loads = [Exact(hosts.two, hosts.one, chance, '--bytes', 40 << 20, loop=loop, connections=4)
             for loop in ('threads', 'poll', 'epoll')]
    hosts.one.wait_for_rings(2)
    for host in hosts:
        host.signal_agent(signal.SIGSTOP)
    try:
        for load in loads:
            load.finish()
    finally:
        for host in hosts:
            host.signal_agent(signal.SIGCONT)
    if not hosts.one.plain:
        for host in hosts:
            wait_until(lambda host=host: not host.sessions(), 'no session is left')
        Exact(hosts.two, hosts.one, chance, '--bytes', 8 << 20).finish()


# Writes when there is a file, and ends: by closing, or by shutting down and going away without a word.
LATE_FLOOD = '''
import os, socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for i in range(20):
    connection.sendall(b'x')
    time.sleep(0.05)
while not os.path.exists(sys.argv[3]):
    time.sleep(0.02)
connection.sendall(bytes(200_000))
if sys.argv[4] == 'shut':
    connection.shutdown(socket.SHUT_WR)
    os._exit(0)
connection.close()
'''


@pytest.mark.parametrize('hangs', ['one', 'two'])
def test_the_writer_is_gone_before_its_link_fails(hosts, hangs):
    """What is in its ring is carried on by its agent, also if that has to be by TCP."""
    one, two = hosts
    signs, programs = one.home / 'go', []
    for how in ('close', 'shut'):
        port = free_port()
        reader = two.serve(python(DRINK, two.address, port, 0), port)
        programs.append((one.spawn(python(LATE_FLOOD, two.address, port, signs, how)), reader))
    if not one.plain:
        wait_until(lambda: len([row for row in one.far_sessions() if row['tx_way'] == 'ring']) == 2, 'they are in rings')
    getattr(hosts, hangs).signal_agent(signal.SIGSTOP)
    signs.touch()
    for writer, _ in programs:
        writer.wait()
    time.sleep(5)
    getattr(hosts, hangs).signal_agent(signal.SIGCONT)
    for _, reader in programs:
        assert reader.wait().out == '200000\n'
    for host in hosts if not one.plain else ():
        wait_until(lambda host=host: not host.sessions(), 'the session is over')


# Has its session before it sends more than a byte; then all goes by the ring at once, and it ends.
BRIEF_WRITER = '''
import os, socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.sendall(b'x')
connection.setblocking(False)
while not os.path.exists(sys.argv[3]):
    try:
        connection.recv(1)
    except BlockingIOError:
        time.sleep(0.02)
connection.setblocking(True)
connection.sendall(bytes(10_000))
if sys.argv[4] == 'shut':
    connection.shutdown(socket.SHUT_WR)
    os._exit(0)
connection.close()
'''

POLLING_READER = '''
import socket, sys, time
connection, _ = socket.create_server((sys.argv[1], int(sys.argv[2]))).accept()
connection.setblocking(False)
count, data = 0, b' '
while data:
    try:
        count += len(data := connection.recv(65536))
    except BlockingIOError:
        time.sleep(0.01)
print(count)
'''


@pytest.mark.parametrize('how', ['close', 'shut'])
def test_the_reader_leaves_before_it_hears_of_the_ring(hosts, how):
    """While the writer ends, and is gone when that is known there."""
    one, two = hosts
    port, sign = free_port(), one.home / 'go'
    reader = two.serve(python(POLLING_READER, two.address, port), port)
    writer = one.spawn(python(BRIEF_WRITER, two.address, port, sign, how))
    if not one.plain:
        wait_until(lambda: [row for row in two.far_sessions() if row['rx_way'] == 'watch'], 'the reader watches')
    one.order('delay 500000')
    sign.touch()
    writer.wait()
    if not one.plain:
        two.call('fallback', all=True)
    assert reader.wait().out == '10001\n'


# Connections that two processes hold; `signs` are files of names that begin with the third argument.
SHARED = '''
import os, socket, sys, time
def wait_for(sign):
    while not os.path.exists(sys.argv[3] + sign):
        time.sleep(0.02)
def give(sign):
    open(sys.argv[3] + sign, 'w').close()
def write_slowly():
    for i in range(20):
        connection.sendall(b'x')
        time.sleep(0.05)
def write_and_shut(size):
    wait_for('write')
    connection.sendall(bytes(size))
    connection.shutdown(socket.SHUT_WR)
    give('shut')
def end_as_child():
    connection.close()
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
'''

# The child has the ring from its parent, and goes without having spoken to any agent before its end.
CHILD_WRITES = SHARED + '''
write_slowly()
if os.fork():
    end_as_child()
write_and_shut(int(sys.argv[4]))
if sys.argv[5] == 'close':
    wait_for('close')
    connection.close()
os._exit(0)
'''

# The child hears of the ring, in which it does nothing, and is the last to close.
CHILD_CLOSES = SHARED + '''
if os.fork():
    write_slowly()
    write_and_shut(int(sys.argv[4]))
    end_as_child()
wait_for('read')
connection.setblocking(False)
for i in range(10):
    try:
        connection.recv(1)
    except BlockingIOError:
        time.sleep(0.05)
give('reads')
wait_for('close')
connection.close()
os._exit(0)
'''

# The child never hears of it, and reads when its parent is long gone.
CHILD_READS = SHARED + '''
if os.fork():
    write_slowly()
    write_and_shut(int(sys.argv[4]))
    end_as_child()
wait_for('read')
count = 0
while data := connection.recv(65536):
    count += len(data)
print(count)
'''


class SharedWriter:
    """One of the programs above on host `one`, in its ring, and a reader on host `two`."""

    def __init__(self, hosts, program, size, *options, reader):
        self.one, two = hosts
        self.signs, self.size, port = f'{self.one.home}/sign-', size, free_port()
        self.reader = two.serve(python(reader, two.address, port, 0), port)
        self.writer = self.one.spawn(python(program, two.address, port, self.signs, size, *options))
        if not self.one.plain:
            wait_until(lambda: [row for row in self.one.far_sessions() if row['tx_way'] == 'ring'], 'it is in a ring')
        time.sleep(1)
        for host in hosts:
            host.expected_complaints.append('')

    def give(self, sign):
        Path(self.signs + sign).touch()

    def wait_for(self, sign):
        wait_until(Path(self.signs + sign).exists, f'it gives the sign {sign}')

    def check(self):
        assert self.reader.wait().out == f'{self.size}\n'
        return self.writer.wait().out


@pytest.mark.parametrize('hangs', ['one', 'two'])
def test_a_child_is_gone_before_its_link_fails(hosts, hangs):
    """What it said last to its agent is heard, although there is nobody to be greeted."""
    shared = SharedWriter(hosts, CHILD_WRITES, 200_000, 'end', reader=DRINK)
    getattr(hosts, hangs).signal_agent(signal.SIGSTOP)
    shared.give('write')
    shared.writer.wait()
    time.sleep(5)
    getattr(hosts, hangs).signal_agent(signal.SIGCONT)
    shared.check()


@unsanitized
def test_a_child_writes_after_its_agent_was_replaced(hosts):
    """The new agent knows nothing of the ring."""
    shared = SharedWriter(hosts, CHILD_WRITES, 10_000, 'end', reader=DRINK)
    hosts.one.kill_agent()
    hosts.one.start_agent()
    shared.give('write')
    shared.check()


@unsanitized
@pytest.mark.parametrize('program', [CHILD_WRITES, CHILD_CLOSES], ids=['writer', 'reader'])
def test_an_agent_is_killed_before_the_last_close(hosts, program):
    """It was to end the stream when all has arrived. Who closes last may be one that never sent."""
    shared = SharedWriter(hosts, program, 10_000, 'close', reader=DRINK)
    if program == CHILD_CLOSES:
        shared.give('read')
        shared.wait_for('reads')
    hosts.one.signal_agent(signal.SIGSTOP)
    shared.give('write')
    shared.wait_for('shut')
    hosts.one.kill_agent()
    hosts.one.start_agent()
    shared.give('close')
    shared.check()


ANSWER = '''
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
connection, _ = listener.accept()
for i in range(20):
    connection.recv(1)
connection.sendall(bytes(30_000))
count = 0
while data := connection.recv(65536):
    count += len(data)
connection.close()
print(count)
'''


def test_an_agent_reads_nothing_that_others_may_want(hosts):
    """It sends again what is in a ring that nobody holds any more, while somebody holds the socket."""
    shared = SharedWriter(hosts, CHILD_READS, 10_000, reader=ANSWER)
    hosts.two.signal_agent(signal.SIGSTOP)
    shared.give('write')
    shared.wait_for('shut')
    time.sleep(5)
    hosts.two.signal_agent(signal.SIGCONT)
    shared.reader.wait()
    shared.give('read')
    assert shared.check() == '30000\n'


# Its child holds the lock of this end's receivers (end_shared.rx_lock), as if it were just looking.
LOCKED_READER = '''
import ctypes, os, socket, sys, time
def wait_for(sign):
    while not os.path.exists(sys.argv[3] + sign):
        time.sleep(0.02)
connection, _ = socket.create_server((sys.argv[1], int(sys.argv[2]))).accept()
for i in range(int(sys.argv[4])):
    connection.recv(1)
if os.fork() == 0:
    [line] = [line for line in open('/proc/self/maps') if 'memfd:rdma-end' in line] or ['']
    mutex, libc = ctypes.c_void_p(int(line.split('-')[0], 16) + 512 + 64) if line else None, ctypes.CDLL(None)
    wait_for('lock')
    assert not mutex or libc.pthread_mutex_lock(mutex) == 0
    open(sys.argv[3] + 'locked', 'w').close()
    wait_for('unlock')
    assert not mutex or libc.pthread_mutex_unlock(mutex) == 0
    os._exit(0)
wait_for('read')
print(len(connection.recv(10_020, socket.MSG_WAITALL)))
'''

LATE_WRITER = '''
import os, socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for i in range(20):
    connection.sendall(b'x')
    time.sleep(0.05)
sys.stdin.readline()
connection.sendall(bytes(10_000))
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
'''


@pytest.mark.parametrize('read', [20, 19])
def test_a_holder_looks_while_another_sees_the_end(hosts, read):
    """What comes by TCP, all at once, is what was in the ring, which the one has found out, and the other has not."""
    one, two = hosts
    port, signs = free_port(), f'{two.home}/sign-'
    reader = two.serve(python(LOCKED_READER, two.address, port, signs, read), port)
    writer = one.spawn(python(LATE_WRITER, two.address, port), stdin=subprocess.PIPE)
    if not one.plain:
        wait_until(lambda: [row for row in one.far_sessions() if row['tx_way'] == 'ring'], 'it is in a ring')
    time.sleep(1)
    for host in hosts:
        host.expected_complaints.append('')
    one.order('delay 300000')
    writer.popen.stdin.close()
    time.sleep(0.1)
    one.order('cut')
    time.sleep(0.5)
    Path(signs + 'lock').touch()
    wait_until(Path(signs + 'locked').exists, 'the child has the lock')
    Path(signs + 'read').touch()
    time.sleep(0.5)
    Path(signs + 'unlock').touch()
    assert reader.wait().out == f'{10_020 - read}\n'
    writer.wait()


# Both processes watch for the ring. The child asks for what can be read, and the parent, later, reads.
TWO_READERS = '''
import os, select, socket, sys, time
def wait_for(sign):
    while not os.path.exists(sys.argv[3] + sign):
        time.sleep(0.02)
connection, _ = socket.create_server((sys.argv[1], int(sys.argv[2]))).accept()
count, data = 0, b' '
connection.setblocking(False)
while not os.path.exists(sys.argv[3] + 'fork'):
    try:
        count += len(connection.recv(100))
    except BlockingIOError:
        time.sleep(0.01)
if os.fork() == 0:
    wait_for('poll')
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    for i in range(10):
        poll.poll(20)
    open(sys.argv[3] + 'polled', 'w').close()
    wait_for('end')
    os._exit(0)
wait_for('read')
connection.setblocking(True)
while data:
    count += len(data := connection.recv(65536))
open(sys.argv[3] + 'end', 'w').close()
print(count)
'''


def test_a_holder_leaves_while_another_watches(hosts):
    """For a ring that never begins: the other one reads TCP, too."""
    one, two = hosts
    port, sign, signs = free_port(), one.home / 'go', f'{two.home}/sign-'
    reader = two.serve(python(TWO_READERS, two.address, port, signs), port)
    writer = one.spawn(python(BRIEF_WRITER, two.address, port, sign, 'close'))
    if not one.plain:
        wait_until(lambda: [row for row in two.far_sessions() if row['rx_way'] == 'watch'], 'the reader watches')
    Path(signs + 'fork').touch()
    time.sleep(0.2)
    if not one.plain:
        two.call('fallback', all=True)
    Path(signs + 'poll').touch()
    wait_until(Path(signs + 'polled').exists, 'the child has polled')
    Path(signs + 'read').touch()
    time.sleep(0.2)
    sign.touch()
    assert reader.wait().out == '10001\n'
    writer.wait()


# Reads to the end of what there is at each event, and waits for the next.
EDGE_READER = '''
import select, socket, sys
connection, _ = socket.create_server((sys.argv[1], int(sys.argv[2]))).accept()
connection.setblocking(False)
events = select.epoll()
events.register(connection, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
count = 0
while count < 1020 and events.poll():
    try:
        while data := connection.recv(65536):
            count += len(data)
    except BlockingIOError:
        pass
print('all')
'''

SLOW_WRITER = '''
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for i in range(20):
    connection.sendall(b'x')
    time.sleep(0.05)
sys.stdin.readline()
connection.sendall(bytes(1000))
connection.recv(1)
'''


def test_what_is_sent_again_is_news_to_edge_triggered_epoll(hosts):
    """It was lost with the link, and nothing else follows."""
    one, two = hosts
    port = free_port()
    reader = two.serve(python(EDGE_READER, two.address, port), port)
    writer = one.spawn(python(SLOW_WRITER, two.address, port), stdin=subprocess.PIPE)
    if not one.plain:
        wait_until(lambda: [row for row in one.far_sessions() if row['tx_way'] == 'ring'], 'it sends through its ring')
    time.sleep(1)
    for host in hosts:
        host.expected_complaints.append('')
    one.order('delay 300000')
    writer.popen.stdin.close()
    time.sleep(0.1)
    one.order('cut')
    assert reader.wait().out == 'all\n'
    writer.wait(check=False)


def test_a_peer_is_taken_out_under_load(hosts, chance):
    one, two = hosts
    load = Exact(two, one, chance, '--bytes', 40 << 20)
    one.wait_for_rings()
    if not one.plain:
        one.write_config({**one.config, 'peers': []})
        one.call('reload')
    load.finish()
