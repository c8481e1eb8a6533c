"""The programs and configurations of examples/, by themselves and under the library."""

import json
import socket
import struct
from pathlib import Path

import harness
import pytest

EXAMPLES = harness.ROOT / 'examples'
MODES = {'blocking': [], 'spinning': ['--poll'], 'epoll': ['--epoll']}


def built(name):
    path = harness.BUILD / 'examples' / name
    assert path.exists(), f'{path} is missing: run scons first'
    return path


def serve(host, name, *options, **more):
    """Starts a server on a port that it chooses. Returns it and its port."""
    server = host.spawn([built(name), *options], **more)

    def announced():
        assert server.running(), repr(server.result())
        return server.out().startswith('listening on ') and server.out().endswith('\n')

    harness.wait_until(announced, 'the server says where it listens')
    return server, int(server.out().splitlines()[0].rpartition(':')[2])


def client(host, port, *options, **more):
    return host.run([built('pingpong-client'), '--port', port, *options], **more)


def client_json(host, port, *options, **more):
    return json.loads(client(host, port, '--json', *options, **more).out)


@pytest.fixture
def plain_host():
    """A host without agent and library."""
    host = harness.Host(plain=True)
    try:
        yield host
    finally:
        host.close()


# ---- by themselves

@pytest.mark.parametrize('address', ['127.0.0.1', '::1'])
@pytest.mark.parametrize('mode', MODES)
def test_round_trips_are_counted_and_timed(plain_host, mode, address):
    server, port = serve(plain_host, 'pingpong-server', '--host', address, '--clients', '3', '--json', *MODES[mode])
    for size in 1, 64, 3_000_000:
        result = client_json(plain_host, port, '--host', address, '--size', size, '--count', 25, '--warmup', 5,
                             *MODES[mode])
        assert result['round_trips'] == 25 and result['size'] == size and result['mode'] == mode
        latency = result['latency_us']
        assert 0 < latency['min'] <= latency['p50'] <= latency['p90'] <= latency['p99'] <= latency['p99.9']
        assert latency['p99.9'] <= latency['max'] and latency['min'] <= latency['mean'] <= latency['max']
        assert result['per_second'] == pytest.approx(25 / result['seconds'], rel=0.01)
    seen = [json.loads(line) for line in server.wait().out.splitlines()[1:]]
    # The first request ends no round trip of the server's.
    assert sorted((line['size'], line['round_trips']) for line in seen) == [(1, 29), (64, 29), (3_000_000, 29)]


def test_time_and_text_output(plain_host):
    _, port = serve(plain_host, 'forking-pingpong-server')
    result = client(plain_host, port, '--seconds', '0.3', '--warmup', '0').out
    assert f'127.0.0.1:{port}, 64 bytes, blocking: ' in result and ' p99.9 ' in result
    assert ' in 0.3' in result


@pytest.mark.parametrize('name, options', [('forking-pingpong-server', []), ('pingpong-server', ['--epoll'])])
def test_many_clients_at_once(plain_host, name, options):
    server, port = serve(plain_host, name, *options, '--clients', '5')
    command = [built('pingpong-client'), '--port', port, '--seconds', '0.5', '--json', '--size']
    clients = [plain_host.spawn([*command, size]) for size in (1, 64, 1000, 100_000, 1_000_000)]
    for one in clients:
        assert json.loads(one.wait().out)['round_trips'] > 10
    assert len(server.wait().out.splitlines()) == 1 + 5 * 2


@pytest.mark.parametrize('options', [[], ['--epoll'], ['--poll']])
def test_a_server_survives_what_clients_do(plain_host, options):
    server, port = serve(plain_host, 'pingpong-server', *options)
    for garbage in (b'', b'GET / HTTP/1.0\r\n\r\n', struct.pack('!II', 0x50494e47, 0),
                    struct.pack('!II', 0x50494e47, 2**32 - 1), struct.pack('!II', 0x50494e47, 64) + b'short'):
        with socket.create_connection(('127.0.0.1', port)) as connection:
            connection.settimeout(harness.PATIENCE)
            try:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b''
            except TimeoutError:
                raise
            except OSError:
                pass    # it has closed already, and reset what it did not read
    assert client_json(plain_host, port, '--count', 10)['round_trips'] == 10
    assert server.running() and server.err().count('ping-pong protocol') == 5


@pytest.mark.parametrize('program, options, code', [
    ('pingpong-client', ['--help'], 0),
    ('pingpong-client', [], 2),
    ('pingpong-client', ['--port', '1', '--size', '0'], 2),
    ('pingpong-client', ['--port', '1', '--size', '64k'], 2),
    ('pingpong-client', ['--port', '1', '--seconds', 'nan'], 2),
    ('pingpong-client', ['--port', '1', '--frequency', '3'], 2),
    ('pingpong-client', ['--port', '1', 'more'], 2),
    ('pingpong-client', ['--port', '1'], 1),
    ('pingpong-client', ['--host', 'no such host', '--port', '1'], 1),
    ('pingpong-server', ['--help'], 0),
    ('pingpong-server', ['--clients', '-1'], 2),
    ('pingpong-server', ['--host', '192.0.2.1'], 1),
    ('forking-pingpong-server', ['--help'], 0),
    ('forking-pingpong-server', ['more'], 2),
    ('verbs-pingpong', ['--help'], 0),
    ('verbs-pingpong', [], 2),
    ('verbs-pingpong', ['--server', '--size', '0'], 2),
    ('verbs-pingpong', ['--server', 'more'], 2),
])
def test_usage_and_exit_codes(plain_host, program, options, code):
    result = plain_host.run([built(program), *options], check=False)
    assert result.code == code, repr(result)
    assert result.out.startswith('usage: ') if code == 0 else f'{program}: ' in result.err.splitlines()[0]


# ---- under the library

@pytest.mark.parametrize('mode', MODES)
def test_ping_pong_moves_to_a_ring(agent, mode):
    _, port = serve(agent, 'pingpong-server', *MODES[mode])
    # The upgrade takes some milliseconds, in which spinning clients get far.
    result = client_json(agent, port, '--count', 3000, '--warmup', 3000, *MODES[mode])
    assert result['round_trips'] == 3000
    agent.expect_ring(3000 * 2 * 64)


def test_a_forked_server_moves_to_a_ring(agent):
    _, port = serve(agent, 'forking-pingpong-server')
    for size in 64, 1_000_000:
        before = agent.ring_bytes()
        client_json(agent, port, '--count', 200, '--warmup', 500, '--size', size)
        agent.expect_ring(200 * 2 * size, since=before)


def test_python_echo_moves_to_a_ring(agent):
    server = agent.spawn([harness.PYTHON, EXAMPLES / 'echo.py', 'server'])
    harness.wait_until(lambda: server.out().endswith('\n'), 'the server says where it listens')
    port = server.out().strip().rpartition(':')[2]
    said = agent.run([harness.PYTHON, EXAMPLES / 'echo.py', 'client', '--port', port, '--seconds', '0.3']).out
    assert int(said.split()[0]) > 0
    agent.expect_ring(100 * 2 * 64)


# ---- configurations

@pytest.mark.parametrize('path', sorted(EXAMPLES.glob('*.json')), ids=lambda path: path.name)
def test_configurations_are_accepted(plain_host, path):
    config = json.loads(path.read_text())
    key = plain_host.home / 'key'
    key.write_text('one that two hosts have in common\n')
    key.chmod(0o600)
    for peer in config.get('peers', ()):
        peer['key_file'] = str(key)
    plain_host.write_config(config)
    plain_host.run([harness.DAEMON, '--check-config', '--config', plain_host.config_path])


@pytest.mark.parametrize('name', ['a', 'b'])
def test_the_walk_through_shows_the_configurations(name):
    text = (EXAMPLES / 'two-hosts.md').read_text()
    assert f'agent-host-{name}.json' in text
    assert name == 'b' or (EXAMPLES / 'agent-host-a.json').read_text() in text


def table(host, *options, **more):
    result = host.run([EXAMPLES / 'classic-table.sh', '--seconds', '0.3', *options], cwd=EXAMPLES,
                      env={'RDMA_BUILD': harness.BUILD, **more}, accelerated=False, check=False)
    return result, result.out.splitlines()[-1].split('  ') if result.out else []


def test_the_classic_table_of_one_host(agent, plain):
    if agent.sanitized:
        pytest.skip("a sanitizer's runtime would have to be preloaded before the library, by the script too")
    result, row = table(agent, RDMA_AGENT_DIR=agent.runtime)
    assert result.code == 0 and row[0] == 'localhost', repr(result)
    columns = [cell.strip() for cell in row if cell.strip()][1:]
    assert len(columns) == 3 and columns[0].endswith(' us'), repr(result)
    assert plain or (columns[2].endswith(' us') and 'TCP' not in columns[2]), repr(result)


@pytest.mark.parametrize('options, code', [(['--help'], 0), (['--frequency'], 2), (['--size'], 2)])
def test_usage_of_the_classic_table(plain_host, options, code):
    assert table(plain_host, *options)[0].code == code


def test_verbs_pingpong_without_a_device(plain_host):
    if Path('/sys/class/infiniband').exists():
        pytest.skip('this host has a device; in a guest it is tried with one')
    for options in ['--server'], ['--host', '127.0.0.1', '--port', 1]:
        result = plain_host.run([built('verbs-pingpong'), *options], check=False)
        assert result.code == 3 and 'modprobe rdma_rxe' in result.err, repr(result)


def test_the_full_configuration_is_the_default(agent, plain):
    if plain:
        pytest.skip('needs an agent')
    agent.write_config(json.loads((EXAMPLES / 'agent.json').read_text()))
    agent.call('reload')
    stated = agent.call('status')['policy']
    agent.write_config({})
    changed = agent.call('reload')['changed']
    assert changed == [] and agent.call('status')['policy'] == stated


def test_every_key_is_stated_and_explained(agent, plain):
    if plain:
        pytest.skip('needs an agent')

    def keys(value, path=()):
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield path + (key,)
            yield from keys(inner, path + (key,))

    stated = set(keys(json.loads((EXAMPLES / 'agent.json').read_text())))
    assert stated == set(keys(agent.call('status')['policy']))
    text = (EXAMPLES / 'configuration.md').read_text()
    for path in stated:
        assert f'`{path[-1]}`' in text or f'## {path[-1]}:' in text, '.'.join(path)
