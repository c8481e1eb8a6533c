"""rdmactl stats, limit and reload."""

import json

import pytest
from fake_agent import LIMITS, Error, stats

STATS = """\
agent           0.1.0, pid 4000, up 2h03m
directory       /run/rdma-agent
configuration   /etc/rdma-agent/agent.json
clients         3 now, refused 1
sessions        shm 2, rdma 0, total 17, declined 1, recalled 4, ends_left 6
offers          waiting 1, total 40, refused 2, withdrawn 3, replaced 4
links           up 1, peers 2, refused 3
ring memory     1.5 MiB of at most 4.0 GiB; 512 KiB pooled
through rings   sent 1.1 GiB, received 987 B
bad messages    0
stayed TCP      policy_port 2
                pinned 5

USER   UID  SESSIONS  RINGS
redis  999         2   1.0M
"""

SHOWN = """\
LIMIT                     VALUE
sessions_per_user          4096
ring_memory_per_user       1GiB
ring_memory                4GiB
rate_per_session      unlimited
clients_per_user           4096
offers_per_user           16384
"""


def test_stats(ctl, fake):
    done = ctl('stats')
    assert (done.stdout, done.stderr, done.returncode) == (STATS, '', 0)


def test_stats_for_programs(ctl, fake):
    assert json.loads(ctl('stats', '--json').stdout) == stats()


def test_stats_of_an_agent_that_has_done_nothing(ctl, fake):
    fake.answers['stats'] = {'agent': {'config': None}, 'reasons': {}, 'users': []}
    out = ctl('stats').stdout
    assert 'configuration   defaults\n' in out and 'stayed TCP      none\n' in out and 'clients         - now, refused -\n' in out
    assert 'USER' not in out


def test_limits(ctl, fake):
    done = ctl('limit')
    assert (done.stdout, done.stderr, done.returncode) == (SHOWN, '', 0)
    assert json.loads(ctl('limit', '--json').stdout) == {'limits': LIMITS}


def test_what_is_shown_can_be_given_back(ctl, fake):
    fake.answers['limit.get'] = {'limits': dict(LIMITS, ring_memory=1000, ring_memory_per_user=1536 << 20,
                                                rate_per_session=100 << 20)}
    values = dict(line.split() for line in ctl('limit').stdout.splitlines()[1:])
    assert values['ring_memory'] == '1000' and values['ring_memory_per_user'] == '1536MiB'
    assert values['rate_per_session'] == '100MiB/s'
    fake.answers['limit.set'] = lambda params: {'limits': params}
    ctl('limit', *map('='.join, values.items()))
    assert fake.requests[-1]['params'] == fake.answers['limit.get']['limits']


def test_a_limit_of_a_newer_agent_is_shown(ctl, fake):
    fake.answers['limit.get'] = {'limits': dict(LIMITS, links_per_peer=7)}
    assert ctl('limit').stdout == SHOWN + 'links_per_peer                7\n'


@pytest.mark.parametrize('given, sent', [
    ('sessions_per_user=17', {'sessions_per_user': 17}),
    ('clients_per_user=0', {'clients_per_user': 0}),
    ('ring_memory=65536', {'ring_memory': 65536}),
    ('ring_memory=64KiB', {'ring_memory': 65536}),
    ('ring_memory=64 MiB', {'ring_memory': 64 << 20}),
    ('ring_memory_per_user=2TiB', {'ring_memory_per_user': 2 << 40}),
    ('rate_per_session=100MiB', {'rate_per_session': 100 << 20}),
    ('rate_per_session=100MiB/s', {'rate_per_session': 100 << 20}),
    ('rate_per_session=0', {'rate_per_session': 0}),
    ('rate_per_session=unlimited', {'rate_per_session': 0}),
    ('ring_memory=9223372036854775807', {'ring_memory': (1 << 63) - 1}),
])
def test_setting_limits(ctl, fake, given, sent):
    fake.answers['limit.set'] = lambda params: {'limits': dict(LIMITS, **params)}
    done = ctl('limit', given, '--json')
    assert (done.returncode, done.stderr) == (0, '')
    assert fake.requests == [{'jsonrpc': '2.0', 'id': 1, 'method': 'limit.set', 'params': sent}]
    assert json.loads(done.stdout) == {'limits': dict(LIMITS, **sent)}


def test_setting_several_at_once(ctl, fake):
    fake.answers['limit.set'] = lambda params: {'limits': dict(LIMITS, **params)}
    done = ctl('limit', 'offers_per_user=5', 'ring_memory=1MiB')
    assert fake.requests[0]['params'] == {'offers_per_user': 5, 'ring_memory': 1 << 20}
    assert done.stdout == SHOWN.replace('16384', '    5').replace('       4GiB', '       1MiB')


@pytest.mark.parametrize('given, complaint', [
    (['ring_memory'], 'expected KEY=VALUE, not "ring_memory"'),
    (['memory=1'], 'there is no limit "memory"; expected one of: sessions_per_user, ring_memory_per_user,'),
    (['=1'], 'there is no limit ""'),
    (['ring_memory=1', 'ring_memory=2'], 'ring_memory is given twice'),
    (['ring_memory='], 'ring_memory: expected a size such as'),
    (['ring_memory=1.5GiB'], 'ring_memory: expected a size'),
    (['ring_memory=1GB'], 'ring_memory: expected a size'),
    (['ring_memory=-1'], 'ring_memory: expected a size'),
    (['ring_memory= 1'], 'ring_memory: expected a size'),
    (['ring_memory=8388608TiB'], 'ring_memory: expected a size'),
    (['ring_memory=9223372036854775808'], 'ring_memory: expected a size'),
    (['ring_memory=unlimited'], 'ring_memory: expected a size'),
    (['ring_memory=1MiB/s'], 'ring_memory: expected a size'),
    (['sessions_per_user=1KiB'], 'sessions_per_user: expected a whole number'),
    (['sessions_per_user=-1'], 'sessions_per_user: expected a whole number'),
    (['rate_per_session=fast'], 'rate_per_session: expected bytes per second'),
    (['rate_per_session=/s'], 'rate_per_session: expected bytes per second'),
    (['rate_per_session=' + '1' * 40], 'rate_per_session: expected bytes per second'),
])
def test_settings_that_make_no_sense(ctl, fake, given, complaint):
    done = ctl('limit', *given)
    assert done.returncode == 2 and done.stdout == '' and complaint in done.stderr
    assert not fake.requests


def test_a_limit_that_the_agent_refuses(ctl, fake):
    fake.answers['limit.set'] = Error(-32602, 'ring_memory: expected at least 65536, not 1')
    done = ctl('limit', 'ring_memory=1')
    assert (done.returncode, done.stderr) == (1, 'rdmactl limit: ring_memory: expected at least 65536, not 1\n')


@pytest.mark.parametrize('config, changed, shown', [
    ('/etc/rdma-agent/agent.json', [], '/etc/rdma-agent/agent.json: nothing changed\n'),
    ('/a', ['rings.bytes', 'log.level'], '/a: changed rings.bytes, log.level\n'),
    (None, [], 'no configuration file, defaults: nothing changed\n'),
])
def test_reload(ctl, fake, config, changed, shown):
    fake.answers['reload'] = {'config': config, 'changed': changed}
    done = ctl('reload')
    assert (done.stdout, done.stderr, done.returncode) == (shown, '', 0)
    assert json.loads(ctl('reload', '--json').stdout) == fake.answers['reload']


def test_a_configuration_that_the_agent_refuses(ctl, fake):
    fake.answers['reload'] = Error(-32000, '/etc/rdma-agent/agent.json: rings.bytes: expected a power of two')
    done = ctl('reload')
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr == 'rdmactl reload: /etc/rdma-agent/agent.json: rings.bytes: expected a power of two\n'
