"""The configuration of other hosts: what is said of them, and their keys."""

import os

import pytest

from agent_host import run_daemon

EXPECTED_ADDRESS = 'expected an address such as "10.0.0.2", "10.0.0.2:4792" or "[fd00::2]:4792"'

# changes to a peer that is right: what must be said
BAD_PEERS = {
    'name': ({'name': 5}, 'peers[0].name: expected a host\'s name of 1 to 63 visible ASCII characters, found 5'),
    'name empty': ({'name': ''}, 'peers[0].name: expected a host\'s name'),
    'name blank': ({'name': 'db 2'}, 'peers[0].name: expected a host\'s name'),
    'name zero': ({'name': 'db\0002'}, 'expected JSON: \\u0000 is not allowed'),
    'name long': ({'name': 'n' * 64}, 'peers[0].name: expected a host\'s name'),
    'name our own': ({'name': 'db1'}, 'peers[0].name: expected another name than this host\'s own'),
    'address': ({'address': 'db2'}, f'peers[0].address: {EXPECTED_ADDRESS}, found "db2"'),
    'address number': ({'address': 10}, f'peers[0].address: {EXPECTED_ADDRESS}, found 10'),
    'port': ({'address': '10.0.0.2:0'}, f'peers[0].address: {EXPECTED_ADDRESS}'),
    'port high': ({'address': '10.0.0.2:65536'}, f'peers[0].address: {EXPECTED_ADDRESS}'),
    'port open': ({'address': '10.0.0.2:'}, f'peers[0].address: {EXPECTED_ADDRESS}'),
    'port signed': ({'address': '10.0.0.2:+1'}, f'peers[0].address: {EXPECTED_ADDRESS}'),
    'brackets open': ({'address': '[fd00::2'}, f'peers[0].address: {EXPECTED_ADDRESS}'),
    'brackets and more': ({'address': '[fd00::2]4792'}, f'peers[0].address: {EXPECTED_ADDRESS}'),
    'network': ({'networks': ['10.0.0.2/8']}, 'peers[0].networks[0]: expected an address or network'),
    'networks': ({'networks': '10.0.0.2'}, 'peers[0].networks: expected an array, found "10.0.0.2"'),
    'path': ({'key_file': 'db2.key'}, 'peers[0].key_file: expected an absolute path'),
    'key none': ({'key_file': '/no/such/key'}, 'peers[0].key_file: /no/such/key: cannot be read: No such file'),
    'key directory': ({'key_file': '/etc'}, 'peers[0].key_file: /etc: expected a regular file'),
    'no address': ({'address': None}, 'peers[0]: expected a peer with "name", "address" and "key_file", one without '
                                      '"address"'),
    'no key': ({'key_file': None}, 'peers[0]: expected a peer with'),
    'no name': ({'name': None}, 'peers[0]: expected a peer with'),
    'unknown': ({'port': 5}, 'peers[0].port: unknown key, expected one of name, address, networks, key_file'),
}

BAD_RDMA = {
    'port': ({'port': 0}, 'rdma.port: expected a whole number from 1 to 65535, found 0'),
    'port high': ({'port': 65536}, 'rdma.port: expected a whole number from 1 to 65535'),
    'memory': ({'registered_memory': 0}, 'rdma.registered_memory: expected a number of bytes from 1 to'),
    'listen': ({'listen': ['any']}, f'rdma.listen[0]: {EXPECTED_ADDRESS}, found "any"'),
    'name': ({'name': ''}, 'rdma.name: expected a host\'s name'),
    'unknown': ({'peers': []}, 'rdma.peers: unknown key, expected one of listen, port, registered_memory, name'),
}


@pytest.fixture
def key_file(tmp_path):
    return write_key(tmp_path / 'db2.key', b'0123456789abcdef\n')


def write_key(path, text, mode=0o600):
    path.write_bytes(text)
    path.chmod(mode)
    return str(path)


def peer(key_path, /, **changes):
    whole = {'name': 'db2', 'address': '10.0.0.2', 'key_file': key_path, **changes}
    return {key: value for key, value in whole.items() if value is not None}


def config(*peers, **rdma):
    return {'peers': list(peers), 'rdma': {'name': 'db1', **rdma}}


def refused(make_agent, configuration):
    """What the agent says of a configuration that it does not take."""
    agent = make_agent(start=False, config=configuration)
    result = run_daemon('--config', agent.config_file, '--check-config')
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert f'{agent.config_file}: ' in result.stderr
    return result.stderr


@pytest.mark.parametrize('name', BAD_PEERS)
def test_mistakes_in_a_peer_are_named(make_agent, key_file, name):
    changes, expected = BAD_PEERS[name]
    assert expected in refused(make_agent, config(peer(key_file, **changes)))


@pytest.mark.parametrize('name', BAD_RDMA)
def test_mistakes_in_rdma_are_named(make_agent, name):
    changes, expected = BAD_RDMA[name]
    assert expected in refused(make_agent, {'rdma': changes})


@pytest.mark.parametrize('key, changes', [('name', {'address': '10.0.0.3'}), ('address', {'name': 'db3'})])
def test_two_peers_are_two(make_agent, key_file, key, changes):
    said = refused(make_agent, config(peer(key_file), peer(key_file, **changes)))
    assert f'peers[1].{key}: expected another {key} than that of peers[0]' in said


@pytest.mark.parametrize('size', [0, 1, 15, 4097, 100000])
def test_a_key_of_the_wrong_size_is_refused(make_agent, tmp_path, size):
    path = write_key(tmp_path / 'key', b'k' * size + b'\n')
    said = refused(make_agent, config(peer(path)))
    assert f'peers[0].key_file: {path}: expected a key of 16 to 4096 bytes, found {min(size, 4097)}' in said
    assert 'openssl rand -base64 32' in said


@pytest.mark.parametrize('mode', [0o640, 0o604, 0o620, 0o602, 0o777])
def test_a_key_that_others_can_read_is_refused(make_agent, tmp_path, mode):
    path = write_key(tmp_path / 'key', b'k' * 32, mode)
    assert f'{path}: expected a file that only its owner can read or write, found mode {mode:04o}' in refused(
        make_agent, config(peer(path)))


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give a file away')
def test_a_key_of_another_user_is_refused(make_agent, tmp_path):
    path = write_key(tmp_path / 'key', b'k' * 32)
    os.chown(path, 12345, 0)
    assert "expected a file of root's or of the agent's own user, found one of user 12345's" in refused(
        make_agent, config(peer(path)))


def test_a_fifo_keeps_nobody_waiting(make_agent, tmp_path):
    os.mkfifo(tmp_path / 'key', 0o600)
    assert 'expected a regular file' in refused(make_agent, config(peer(str(tmp_path / 'key'))))


ADDRESSES = {
    '10.0.0.2': ('10.0.0.2:4792', '10.0.0.2/32'),
    '10.0.0.2:5000': ('10.0.0.2:5000', '10.0.0.2/32'),
    'fd00::2': ('[fd00::2]:4792', 'fd00::2/128'),
    '[fd00::2]': ('[fd00::2]:4792', 'fd00::2/128'),
    '[fd00::2]:5000': ('[fd00::2]:5000', 'fd00::2/128'),
}


@pytest.mark.parametrize('address', ADDRESSES)
def test_what_a_peer_says_is_shown(make_agent, key_file, address):
    agent = make_agent(config(peer(key_file, address=address)))
    shown, network = ADDRESSES[address]
    policy = agent.call('status')['policy']
    assert policy['peers'] == [{'name': 'db2', 'address': shown, 'networks': [network], 'key_file': key_file}]
    agent.write_config(policy)
    assert agent.call('reload')['changed'] == []


def test_no_key_is_shown(make_agent, tmp_path):
    path = write_key(tmp_path / 'key', b'SecretSecretSecretSecret')
    agent = make_agent(config(peer(path)))
    assert 'SecretSecret' not in str(agent.call('status')) + agent.log()
