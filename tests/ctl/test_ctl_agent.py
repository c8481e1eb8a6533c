"""rdmactl and the real agent: that they agree, and that fake_agent.py answers as the agent does."""

import json
import os
import signal
import subprocess
import time

import pytest
from fake_agent import LIMITS, VERSION, peers, stats
from rdmactl import BUILD, PATIENCE

DAEMON = BUILD / 'rdma-agent'

pytestmark = pytest.mark.skipif(not DAEMON.exists(), reason='the agent is not built')


@pytest.fixture
def config(runtime_dir):
    """The agent's configuration file."""
    path = runtime_dir / 'agent.json'
    path.write_text('{}')
    return path


@pytest.fixture
def agent(ctl, config):
    """The agent, in the directory of `ctl`."""
    process = subprocess.Popen([DAEMON, '--config', config, '--runtime-dir', ctl.directory], stderr=subprocess.PIPE,
                               text=True, env=ctl.environment())
    deadline = time.monotonic() + PATIENCE
    while ctl('list').returncode == 3:
        assert process.poll() is None and time.monotonic() < deadline, 'the agent does not come up'
        time.sleep(0.02)
    yield process
    process.send_signal(signal.SIGCONT)
    process.terminate()
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0, said


def answer(ctl, *command):
    done = ctl('--json', *command)
    assert (done.returncode, done.stderr) == (0, '')
    return json.loads(done.stdout)


def shape(value):
    """The keys of an object, and of the objects in it."""
    return {key: shape(member) for key, member in value.items()} if isinstance(value, dict) else None


def test_the_answers_have_the_shape_of_the_fakes(ctl, agent):
    real, fake = answer(ctl, 'stats'), stats()
    assert set(real['reasons']) >= set(fake['reasons'])
    for one in real, fake:
        one.pop('reasons')
    assert shape(real) == shape(fake)
    assert answer(ctl, 'limit') == {'limits': LIMITS}
    assert answer(ctl, 'list') == []
    assert real['agent']['version'] == VERSION and real['agent']['pid'] == agent.pid


def test_every_command(ctl, agent):
    for command in ['list'], ['stats'], ['limit'], ['fallback', '--all'], ['peers'], ['reload'],\
            ['top', '-n', '1']:
        done = ctl(*command)
        assert (done.returncode, done.stderr) == (0, '') and done.stdout


def test_limits(ctl, agent):
    assert 'ring_memory                1MiB' in ctl('limit', 'ring_memory=1MiB', 'sessions_per_user=3').stdout
    assert answer(ctl, 'limit')['limits'] == dict(LIMITS, ring_memory=1 << 20, sessions_per_user=3)
    done = ctl('limit', 'clients_per_user=7', 'sessions_per_user=0')
    assert done.returncode == 1 and 'sessions_per_user' in done.stderr and 'expected' in done.stderr
    assert answer(ctl, 'limit')['limits']['clients_per_user'] == LIMITS['clients_per_user']


def test_peers(ctl, agent):
    real, fake = answer(ctl, 'peers'), peers()
    assert shape(real) == shape(fake) and real['peers'] == []
    assert answer(ctl, 'peers', '--connect') == real
    done = ctl('peers', '--connect', 'db9')
    assert done.returncode == 1 and 'there is no peer "db9" in the configuration' in done.stderr


def test_fallback(ctl, agent):
    assert ctl('fallback', '--all').stdout == '0 sessions ordered back to TCP\n'
    assert answer(ctl, 'fallback', '--all') == {'recalled': 0}
    assert ctl('fallback', '--json', '99').returncode == 1
    done = ctl('fallback', '99')
    assert done.returncode == 1 and 'there is no session 99' in done.stderr


def test_reload(ctl, agent, config):
    config.write_text('{"rings": {"bytes": "64KiB"}, "limits": {"ring_memory": "2GiB"}}')
    done = answer(ctl, 'reload')
    assert done['config'] == str(config) and sorted(done['changed']) == ['limits.ring_memory', 'rings.bytes']
    config.write_text('{"rings": {"bites": 1}}')
    done = ctl('reload')
    assert done.returncode == 1 and 'rings.bites' in done.stderr and str(config) in done.stderr
    assert answer(ctl, 'limit')['limits']['ring_memory'] == 2 << 30


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to become another user')
def test_other_users_may_look_but_not_touch(ctl, agent):
    nobody = {'user': 65534, 'group': 65534, 'extra_groups': []}
    if subprocess.run([ctl.program, 'version'], stdout=subprocess.DEVNULL, **nobody).returncode != 0:
        pytest.skip('other users cannot reach the build')
    assert ctl('list', **nobody).stdout == 'no sessions\n'
    for command in ['limit', 'ring_memory=1GiB'], ['fallback', '--all'], ['peers', '--connect'], \
            ['reload']:
        done = ctl(*command, **nobody)
        assert done.returncode == 1 and 'permission denied' in done.stderr


def test_the_doctor_understands_the_agent(ctl, agent, config, library):
    def examine():
        done = ctl('doctor', '--json', env={'RDMA_PRELOAD_LIBRARY': str(library)})
        return [(one['check'], one['status']) for one in json.loads(done.stdout)['checks']]

    expected = ['agent', 'version', 'owner', 'clients', 'policy', 'namespace']
    assert examine()[:6] == [(check, 'ok') for check in expected]
    assert ('memory', 'ok') in examine() or ('memory', 'warn') in examine()
    config.write_text('{"upgrade": {"enabled": false}}')
    ctl('reload')
    assert ('policy', 'fail') in examine()


def test_an_agent_that_is_stopped(ctl, agent, library):
    agent.send_signal(signal.SIGSTOP)
    done = ctl('run', 'echo', 'here', env={'RDMA_PRELOAD_LIBRARY': str(library)})
    assert done.stdout == 'here\n' and 'did not answer within 1 s' in done.stderr
