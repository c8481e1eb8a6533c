"""redis-server with redis-cli, redis-benchmark, and a client of our own."""

import re

import pytest

from harness import free_port, wait_until


class Redis:
    def __init__(self, agent, *options):
        self.agent, self.port = agent, free_port()
        self.options = options
        self.start()

    def start(self):
        command = ['redis-server', '--port', self.port, '--bind', '127.0.0.1', '--dir', self.agent.home, '--save', '',
                   '--daemonize', 'no', '--enable-debug-command', 'local', *self.options]
        self.server = self.agent.serve(command, self.port)

    def cli(self, *words, **more):
        return self.agent.run(['redis-cli', '-p', self.port, *words], **more).out.strip()

    def benchmark_command(self, *words):
        return ['redis-benchmark', '-p', self.port, '--csv', *words]

    def persistence(self, name):
        return re.search(rf'^{name}:(\S+)', self.cli('INFO', 'persistence'), re.MULTILINE).group(1)


@pytest.fixture
def redis(agent):
    return Redis(agent)


def rates(benchmark):
    """The requests per second of each test in the output of `redis-benchmark --csv`."""
    return {name: float(rate) for name, rate in re.findall(r'^"([^"]+)","([\d.]+)"', benchmark.out, re.MULTILINE)}


def test_cli(agent, redis):
    lines = [f'SET key{i} value{i}\nGET key{i}\nAPPEND key{i} +\nSTRLEN key{i}' for i in range(300)]
    expected = [f'OK\nvalue{i}\n{len(f"value{i}+")}\n{len(f"value{i}+")}' for i in range(300)]
    assert redis.cli(input='\n'.join(lines)) == '\n'.join(expected)
    assert redis.cli('DBSIZE') == '300'
    agent.expect_ring(10000)


@pytest.mark.parametrize('options', [['-c', 1, '-n', 3000], ['-c', 20, '-n', 20000], ['-c', 20, '-n', 100000, '-P', 16],
                                     ['-c', 4, '-n', 400, '-d', 100000]], ids=['one', 'twenty', 'pipelined', 'large'])
def test_benchmark(agent, redis, options):
    result = agent.run(redis.benchmark_command('-t', 'set,get,incr,lpush,lrange_100', '-r', 10, *options))
    assert len(rates(result)) == 6 and min(rates(result).values()) > 0, repr(result)
    assert int(redis.cli('STRLEN', 'key:000000000001')) == (options[-1] if '-d' in options else 3)
    agent.expect_ring(100000)


@pytest.mark.parametrize('scenario', ['values', 'pipeline', 'transactions', 'pubsub', 'client_kill', 'blocking'])
def test_client(agent, redis, scenario):
    assert agent.python('redis_client.py', redis.port, scenario).out == 'ok\n'
    agent.expect_ring(1000 if scenario not in ('values', 'pipeline') else 500000)


def test_shutdown_ends_its_clients(agent, redis):
    assert agent.python('redis_client.py', redis.port, 'shutdown').out == 'ok\n'
    assert redis.server.wait().code == 0
    agent.expect_ring(1000)


def test_snapshot_under_load(agent, redis):
    """The child that writes the snapshot holds every client's socket, while the parent goes on serving them."""
    assert redis.cli('DEBUG', 'POPULATE', 200000, 'filled', 200) == 'OK'
    load = agent.spawn(redis.benchmark_command('-t', 'set', '-r', 1000, '-n', 2000000, '-c', 10, '-P', 4))
    wait_until(lambda: int(redis.cli('DBSIZE')) > 200000, 'the load has begun', every=0.1)
    for _ in range(2):
        assert redis.cli('BGSAVE').startswith('Background saving started')
        wait_until(lambda: redis.persistence('rdb_bgsave_in_progress') == '0', 'the snapshot is written',
                   timeout=60, every=0.1)
        assert redis.persistence('rdb_last_bgsave_status') == 'ok'
    assert load.running(), f'the load ended before the snapshots: {load.result()}'
    load.stop()
    size = redis.cli('DBSIZE')
    redis.cli('SHUTDOWN', 'SAVE', check=False)
    assert redis.server.wait().code == 0
    redis.start()
    wait_until(lambda: redis.cli('PING') == 'PONG', 'the snapshot is read', every=0.1)
    assert redis.cli('DBSIZE') == size
    agent.expect_ring(100000)
