"""rdmactl peers."""

import json

from fake_agent import Error, peer, peers

DOWN = peer(name='web\x1b[2J', state='down', device=None, rtt_us=0, since_s=3, sessions=0, tx_bytes=0, rx_bytes=0,
            error='cannot connect: No route\nto host')

TABLE = '''\
PEER     ADDRESS        STATE     FOR  DEVICE    RTT  SESSIONS    TX   RX
db2      10.0.0.2:4792  up     12m05s  rxe0    43 us        12  1.5M  987
web?[2J  10.0.0.2:4792  down       3s  -           -         0     0    0
web?[2J: cannot connect: No route?to host
'''


def test_no_peers(ctl, fake):
    assert ctl('peers').stdout == 'no peers\n'


def test_the_table(ctl, fake):
    fake.answers['peers'] = peers(peer(), DOWN)
    done = ctl('peers')
    assert (done.stdout, done.stderr, done.returncode) == (TABLE, '', 0)


def test_for_programs(ctl, fake):
    fake.answers['peers'] = peers(peer(), DOWN)
    assert json.loads(ctl('peers', '--json').stdout) == peers(peer(), DOWN)


def test_an_agent_that_says_less(ctl, fake):
    fake.answers['peers'] = {'peers': [{'name': 'db2'}]}
    assert ctl('peers').stdout.splitlines()[1].split() == ['db2'] + ['-'] * 8


def coming_up(fake, after):
    """Links that are up after so many looks."""
    looks = []

    def look(params):
        looks.append(params)
        return peers(peer(state='up' if len(looks) > after else 'connecting'), peer(name='db3', state='down'))

    fake.answers['peers'] = fake.answers['peers.connect'] = look
    return looks


def test_connecting_to_one(ctl, fake):
    looks = coming_up(fake, 3)
    done = ctl('peers', '--connect', 'db2')
    assert done.returncode == 0 and len(looks) == 4 and looks[0] == {'name': 'db2'}
    assert [request['method'] for request in fake.requests] == ['peers.connect'] + ['peers'] * 3


def test_connecting_to_all_in_vain(ctl, fake):
    looks = coming_up(fake, 2)
    done = ctl('peers', '--connect', '--json')
    assert done.returncode == 1 and len(looks) > 50 and looks[0] == {}
    assert json.loads(done.stdout)['peers'][1]['state'] == 'down'


def test_an_unknown_peer(ctl, fake):
    fake.answers['peers.connect'] = Error(-32602, 'there is no peer "db9" in the configuration')
    done = ctl('peers', '--connect', 'db9')
    assert (done.returncode, done.stderr) == (1, 'rdmactl peers: there is no peer "db9" in the configuration\n')
