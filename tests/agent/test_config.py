"""Configuration files: each mistake is named by file, key and expectation; a new one is applied wholly or not at all."""

import json
import os
import signal

import pytest

import protocol
from agent_host import run_daemon, wait_until

# text of the file: what must be said after its name
BAD = {
    'empty': ('', 'line 1, column 0: expected JSON: '),
    'no JSON': ('{"upgrade": {', 'line 1, column 13: expected JSON: '),
    'a key twice': ('{"log": {}, "log": {}}', 'expected JSON: duplicate object key near \'"log"\''),
    'after the end': ('{} {}', 'expected JSON: end of file expected'),
    'no object': ('[]', 'expected an object, found []'),
    'unknown': ('{"upgrades": {}}',
                'upgrades: unknown key, expected one of upgrade, rings, limits, namespaces, peers, rdma, log'),
    'of a later day': ('{"fabrics": []}', 'fabrics: unknown key, expected one of '),
    'unknown inside': ('{"upgrade": {"ports": {"block": []}}}',
                       'upgrade.ports.block: unknown key, expected one of deny, allow'),
    'section': ('{"upgrade": true}', 'upgrade: expected an object, found true'),
    'section null': ('{"rings": null}', 'rings: expected an object, found null'),
    'switch': ('{"upgrade": {"enabled": 1}}', 'upgrade.enabled: expected true or false, found 1'),
    'calls': ('{"upgrade": {"after_calls": -1}}', 'upgrade.after_calls: expected a whole number from 0 to '),
    'calls as text': ('{"upgrade": {"after_calls": "8"}}', 'expected a whole number from 0 to 4611686018427387904, '
                                                           'found "8"'),
    'calls broken': ('{"upgrade": {"after_calls": 1.5}}', 'found 1.5'),
    'bytes': ('{"upgrade": {"after_bytes": "64 KiB"}}', 'upgrade.after_bytes: expected a number of bytes from 0 to '
                                                        '4611686018427387904, or a string such as "256KiB", '
                                                        'found "64 KiB"'),
    'bytes too many': ('{"upgrade": {"after_bytes": "99999999TiB"}}', 'upgrade.after_bytes: expected'),
    'bytes beyond all': ('{"upgrade": {"after_bytes": "99999999999999999999"}}', 'upgrade.after_bytes: expected'),
    'bytes negative': ('{"upgrade": {"after_bytes": "-1"}}', 'upgrade.after_bytes: expected'),
    'unit': ('{"upgrade": {"after_bytes": "1kb"}}', 'upgrade.after_bytes: expected'),
    'list': ('{"upgrade": {"ports": {"deny": 22}}}', 'upgrade.ports.deny: expected an array, found 22'),
    'list null': ('{"upgrade": {"ports": {"deny": null}}}', 'upgrade.ports.deny: expected an array, found null'),
    'allow': ('{"upgrade": {"ports": {"allow": "all"}}}', 'upgrade.ports.allow: expected an array or null, found "all"'),
    'port zero': ('{"upgrade": {"ports": {"deny": [22, 0]}}}', 'upgrade.ports.deny[1]: expected a port (1 to 65535) or '
                                                               'a range such as "8000-8999", found 0'),
    'port high': ('{"upgrade": {"ports": {"allow": [65536]}}}', 'upgrade.ports.allow[0]: expected a port'),
    'port range backwards': ('{"upgrade": {"ports": {"deny": ["9-8"]}}}', 'upgrade.ports.deny[0]: expected a port'),
    'port range open': ('{"upgrade": {"ports": {"deny": ["8000-"]}}}', 'upgrade.ports.deny[0]: expected a port'),
    'port range more': ('{"upgrade": {"ports": {"deny": ["1-2-3"]}}}', 'upgrade.ports.deny[0]: expected a port'),
    'port range high': ('{"upgrade": {"ports": {"deny": ["1-65536"]}}}', 'upgrade.ports.deny[0]: expected a port'),
    'port range huge': ('{"upgrade": {"ports": {"deny": ["1-4294967297"]}}}', 'upgrade.ports.deny[0]: expected a port'),
    'address': ('{"upgrade": {"addresses": {"deny": ["localhost"]}}}',
                'upgrade.addresses.deny[0]: expected an address or network such as "10.0.0.0/8" or "fd00::/8", no bit '
                'set beyond its prefix, found "localhost"'),
    'address bits': ('{"upgrade": {"addresses": {"deny": ["10.0.0.1/8"]}}}', 'upgrade.addresses.deny[0]: expected'),
    'address prefix': ('{"upgrade": {"addresses": {"deny": ["10.0.0.0/33"]}}}', 'upgrade.addresses.deny[0]: expected'),
    'address prefix missing': ('{"upgrade": {"addresses": {"deny": ["10.0.0.0/"]}}}',
                               'upgrade.addresses.deny[0]: expected'),
    'address six': ('{"upgrade": {"addresses": {"allow": ["::1/129"]}}}', 'upgrade.addresses.allow[0]: expected'),
    'address number': ('{"upgrade": {"addresses": {"deny": [10]}}}', 'upgrade.addresses.deny[0]: expected'),
    'user': ('{"upgrade": {"users": {"deny": ["root", "no-such-user"]}}}',
             'upgrade.users.deny[1]: expected the name of a user of this host, or a user\'s number, found '
             '"no-such-user"'),
    'user number': ('{"upgrade": {"users": {"deny": [-1]}}}', 'upgrade.users.deny[0]: expected the name of a user'),
    'ring size': ('{"rings": {"bytes": 100000}}', 'rings.bytes: expected a power of two, found 100000'),
    'ring too small': ('{"rings": {"bytes": 8192}}', 'rings.bytes: expected a number of bytes from 16384 to 67108864, '
                                                     'or a string such as "256KiB", found 8192'),
    'ring too large': ('{"rings": {"bytes": "128MiB"}}', 'rings.bytes: expected a number of bytes from 16384 to'),
    'limit zero': ('{"limits": {"sessions_per_user": 0}}',
                   'limits.sessions_per_user: expected a whole number from 1 to'),
    'memory zero': ('{"limits": {"ring_memory": 0}}', 'limits.ring_memory: expected a number of bytes from 1 to'),
    'namespaces': ('{"namespaces": "self"}', 'namespaces: expected an array or null, found "self"'),
    'namespace': ('{"namespaces": ["web"]}', 'namespaces[0]: expected an absolute path such as "/run/netns/web", or '
                                             '"self", found "web"'),
    'level': ('{"log": {"level": "verbose"}}',
              'log.level: expected one of "error", "warning", "info", "debug", found "verbose"'),
    'long': ('{"log": {"level": "%s"}}' % ('x' * 5000), 'found "xxxxx'),
    'long key': ('{"%s": 1}' % ('k' * 5000), 'unknown key, expected one of'),
    'deep': ('[' * 100000, 'expected JSON: maximum parsing depth reached'),
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'agent.json'


@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize('check', [True, False])
def test_mistakes_are_named(file, tmp_path, name, check):
    text, expected = BAD[name]
    file.write_text(text)
    arguments = ['--config', str(file), '--runtime-dir', str(tmp_path / 'run')] + ['--check-config'] * check
    result = run_daemon(*arguments)
    assert result.returncode == 1
    assert f'{file}: ' in result.stderr and expected in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not result.stdout
    assert not (tmp_path / 'run').exists()


def test_files_that_cannot_be_read(tmp_path):
    fifo = tmp_path / 'fifo'
    os.mkfifo(fifo)
    for path, expected in [(tmp_path / 'none', 'cannot be read: No such file or directory'),
                           (tmp_path, 'cannot be read: Is a directory'),
                           (fifo, 'cannot be read: it is not a regular file'),
                           ('/dev/null', 'cannot be read: it is not a regular file')]:
        for check in [], ['--check-config']:
            result = run_daemon('--config', str(path), *check)
            assert result.returncode == 1 and f'{path}: {expected}' in result.stderr


FULL = {
    'upgrade': {
        'enabled': False, 'after_calls': 0, 'after_bytes': '1MiB',
        'ports': {'deny': [22, '8000-8999'], 'allow': None},
        'addresses': {'deny': ['10.0.0.0/8', 'fd00::/8', '::1', '192.0.2.1', '::ffff:10.1.0.0/112', '::/0'],
                      'allow': []},
        'users': {'deny': ['root', 65534], 'allow': ['nobody']},
    },
    'rings': {'bytes': '16KiB', 'pool_bytes': 0},
    'limits': {'sessions_per_user': 1, 'ring_memory_per_user': '2GiB', 'ring_memory': 1, 'rate_per_session': '3B',
               'clients_per_user': 4, 'offers_per_user': 5},
    'namespaces': ['self'],
    'peers': [],
    'rdma': {'listen': ['10.0.0.1', '[fd00::1]:4793'], 'port': 4794, 'registered_memory': '2GiB', 'name': 'db1'},
    'log': {'level': 'debug'},
}

EFFECTIVE = {
    'upgrade': {
        'enabled': False, 'after_calls': 0, 'after_bytes': 1 << 20,
        'ports': {'deny': [22, '8000-8999'], 'allow': None},
        'addresses': {'deny': ['10.0.0.0/8', 'fd00::/8', '::1/128', '192.0.2.1/32', '10.1.0.0/16', '::/0'],
                      'allow': []},
        'users': {'deny': ['root', 65534], 'allow': ['nobody']},
    },
    'rings': {'bytes': 16384, 'pool_bytes': 0},
    'limits': {'sessions_per_user': 1, 'ring_memory_per_user': 2 << 30, 'ring_memory': 1, 'rate_per_session': 3,
               'clients_per_user': 4, 'offers_per_user': 5},
    'namespaces': ['self'],
    'peers': [],
    'rdma': {'listen': ['10.0.0.1', '[fd00::1]:4793'], 'port': 4794, 'registered_memory': 2 << 30, 'name': 'db1'},
    'log': {'level': 'debug'},
}

DEFAULT = {
    'upgrade': {
        'enabled': True, 'after_calls': 8, 'after_bytes': 65536,
        'ports': {'deny': [], 'allow': None},
        'addresses': {'deny': [], 'allow': None},
        'users': {'deny': [], 'allow': None},
    },
    'rings': {'bytes': 262144, 'pool_bytes': 64 << 20},
    'limits': {'sessions_per_user': 4096, 'ring_memory_per_user': 1 << 30, 'ring_memory': 4 << 30,
               'rate_per_session': 0, 'clients_per_user': 4096, 'offers_per_user': 16384},
    'namespaces': None,
    'peers': [],
    'rdma': {'listen': [], 'port': 4792, 'registered_memory': 1 << 30, 'name': None},
    'log': {'level': 'info'},
}


def test_every_key(make_agent):
    agent = make_agent(FULL)
    status = agent.call('status')
    assert status['policy'] == EFFECTIVE and status['namespaces'] == ['self']
    assert status['config'] == agent.config_file and status['runtime_dir'] == agent.directory
    assert status['pid'] == agent.process.pid
    # What it shows could be its file.
    agent.write_config(status['policy'])
    assert agent.call('reload') == {'config': agent.config_file, 'changed': []}


def test_defaults(make_agent):
    assert make_agent({}).call('status')['policy'] == DEFAULT
    # Without a file, too. (One at the standard place is another matter.)
    if not os.path.exists('/etc/rdma-agent/agent.json'):
        status = make_agent().call('status')
        assert status['policy'] == DEFAULT and status['config'] is None and status['namespaces'] == ['self']


def test_check_config(file):
    file.write_text(json.dumps(FULL))
    result = run_daemon('--check-config', '--config', str(file))
    assert (result.returncode, result.stdout, result.stderr) == (0, f'{file}: correct\n', '')


def test_reloading(make_agent):
    agent = make_agent({})
    agent.write_config(FULL)
    result = agent.call('reload')
    assert result['config'] == agent.config_file
    assert 'upgrade.ports.deny' in result['changed'] and 'limits.rate_per_session' in result['changed']
    assert 'upgrade.ports.allow' not in result['changed']
    assert agent.call('status')['policy'] == EFFECTIVE


def change_everything_but(agent, text):
    """A configuration that is right in its first keys, and wrong at the end."""
    agent.write_config('{"upgrade": {"after_calls": 99, "ports": {"deny": [1]}}, "limits": {"ring_memory": 5}, %s}' % text)


BROKEN_LATE = ['"log": {"level": "no"}', '"namespaces": ["/no/such/file"]', '"namespaces": ["/etc/passwd"]',
               '"extra": 1', '"rings": {"bytes": 5}', '"log": {']


@pytest.mark.parametrize('text', BROKEN_LATE)
def test_a_bad_file_changes_nothing(make_agent, text):
    agent = make_agent({'upgrade': {'after_calls': 5}})
    client = agent.client()
    before = agent.call('status')
    generation = client.board.u32(protocol.BOARD_GENERATION)
    change_everything_but(agent, text)
    with pytest.raises(protocol.RpcError) as error:
        agent.call('reload')
    assert error.value.code == -32002
    key = text.split('"')[1]
    assert agent.config_file in str(error.value) and (key in str(error.value) or 'expected JSON' in str(error.value))
    assert str(error.value) in agent.log()
    assert agent.call('status') == before
    assert client.board.u32(protocol.BOARD_GENERATION) == generation
    assert client.board.u64(protocol.BOARD_AFTER_CALLS) == 5
    # By signal as well.
    agent.process.send_signal(signal.SIGHUP)
    wait_until(lambda: agent.log().count('the configuration stays as it was') == 2, 'the signal is handled')
    assert agent.call('status') == before


def test_a_vanished_file_changes_nothing(make_agent):
    agent = make_agent({'upgrade': {'after_calls': 5}})
    os.unlink(agent.config_file)
    with pytest.raises(protocol.RpcError):
        agent.call('reload')
    assert agent.call('status')['policy']['upgrade']['after_calls'] == 5


def test_reloading_by_signal(make_agent):
    agent = make_agent({})
    client = agent.client()
    ends = agent.session(client, client)
    agent.write_config({'upgrade': {'after_calls': 42}, 'rings': {'bytes': '16KiB'}})
    agent.process.send_signal(signal.SIGHUP)
    wait_until(lambda: client.board.u64(protocol.BOARD_AFTER_CALLS) == 42, 'the board shows it')
    assert ends[0].ring_bytes == 262144
    near, far = agent.session(client, client)
    assert near.ring_bytes == far.ring_bytes == 16384
    # Memory of the old size is not given out again.
    ends[0].close(), ends[1].close()
    wait_until(lambda: agent.stats()['sessions']['shm'] == 1, 'the old one is over')
    assert agent.session(client, client)[0].ring_bytes == 16384


def test_the_level_on_the_command_line_wins(make_agent):
    agent = make_agent({'log': {'level': 'error'}})
    agent.client()
    assert 'debug: ' in agent.log()
