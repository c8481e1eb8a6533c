"""rdmactl list: the table, the filters, and what programs get."""

import fcntl
import json
import os
import pty
import struct
import termios

import pytest
from fake_agent import row

SERVER = row(tx_bytes=1536, rx_bytes=999)
CLIENT = row(pid=4712, command='redis-cli', uid=0, user='root', local='127.0.0.1:40000', remote='127.0.0.1:6379',
             tx_bytes=999, rx_bytes=1536, age_s=3600.2)
WAITING = row(id=0, transport='tcp', state='waiting', pid=9, command='curl', uid=0, user='root', local='[::1]:8080',
              remote='[::1]:50000', age_s=0.1)

TABLE = """\
ID TRANSPORT STATE    PID COMMAND      USER  LOCAL           REMOTE            TX   RX   AGE
 1 shm       ring    4712 redis-cli    root  127.0.0.1:40000 127.0.0.1:6379   999 1.5K 1h00m
 1 shm       ring    4711 redis-server redis 127.0.0.1:6379  127.0.0.1:40000 1.5K  999   12s
 - tcp       waiting    9 curl         root  [::1]:8080      [::1]:50000        0    0    0s
"""


def test_table(ctl, fake):
    fake.answers['list'] = {'sessions': [WAITING, CLIENT, SERVER]}
    done = ctl('list')
    assert (done.stdout, done.stderr, done.returncode) == (TABLE, '', 0)
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert [request['method'] for request in fake.requests] == ['list']


def test_json_is_an_array_of_all_fields(ctl, fake):
    fake.answers['list'] = {'sessions': [WAITING, CLIENT, SERVER]}
    done = ctl('list', '--json')
    assert json.loads(done.stdout) == [CLIENT, SERVER, WAITING]
    assert done.returncode == 0


@pytest.mark.parametrize('arguments', [['--json', 'list'], ['list', '--json'], ['--json', 'list', '--json']])
def test_json_before_and_after_the_command(ctl, fake, arguments):
    fake.answers['list'] = {'sessions': [SERVER]}
    assert json.loads(ctl(*arguments).stdout) == [SERVER]


def test_no_sessions(ctl, fake):
    done = ctl('list')
    assert (done.stdout, done.stderr, done.returncode) == ('no sessions\n', '', 0)
    assert ctl('list', '--json').stdout == '[]\n'


@pytest.mark.parametrize('option, expected', [
    (['--pid', '4712'], [CLIENT]), (['--pid', '5'], []), (['--port', '8080'], [WAITING]),
    (['--port', '6379'], [CLIENT, SERVER]), (['--port=40000', '--pid=4711'], [SERVER]), (['--port', '80'], []),
])
def test_filters(ctl, fake, option, expected):
    fake.answers['list'] = {'sessions': [SERVER, CLIENT, WAITING]}
    assert json.loads(ctl('list', '--json', *option).stdout) == expected


@pytest.mark.parametrize('option', ['--pid=0', '--pid=-1', '--pid=x', '--pid=', '--port=0', '--port=65536',
                                    '--port=80x'])
def test_filters_refuse_nonsense(ctl, fake, option):
    done = ctl('list', option)
    assert done.returncode == 2 and done.stdout == ''
    assert 'expected' in done.stderr and option.split('=')[0] in done.stderr and not fake.requests


def test_order_is_by_session_and_waiting_offers_come_last(ctl, fake):
    rows = [WAITING, row(id=10, local='b'), row(id=9), row(id=10, local='a')]
    fake.answers['list'] = {'sessions': rows}
    got = json.loads(ctl('list', '--json').stdout)
    assert [(one['id'], one['local']) for one in got] == [(9, rows[2]['local']), (10, 'a'), (10, 'b'),
                                                          (0, WAITING['local'])]


def test_units(ctl, fake):
    sizes = {0: '0', 1023: '1023', 1024: '1.0K', 1535: '1.5K', 10188: '9.9K', 10190: '10K', 1048063: '1023K',
             1048064: '1.0M', 5 << 30: '5.0G', 3 << 50: '3072T'}
    ages = {0: '0s', 59.9: '59s', 60: '1m00s', 3599: '59m59s', 86399: '23h59m', 86400 * 12 + 3 * 3600: '12d03h'}
    fake.answers['list'] = {'sessions': [row(id=1, tx_bytes=size) for size in sizes]}
    assert [line.split()[8] for line in ctl('list').stdout.splitlines()[1:]] == list(sizes.values())
    fake.answers['list'] = {'sessions': [row(id=1, age_s=age) for age in ages]}
    assert [line.split()[10] for line in ctl('list').stdout.splitlines()[1:]] == list(ages.values())


def test_missing_fields_are_dashes(ctl, fake):
    fake.answers['list'] = {'sessions': [{'id': 3}]}
    assert ctl('list').stdout.splitlines()[1].split() == ['3'] + ['-'] * 10


def test_a_program_cannot_write_to_the_terminal(ctl, fake):
    """A process chooses its own name; an escape sequence in it must not reach the terminal of who looks."""
    fake.answers['list'] = {'sessions': [row(command='\x1b[2Jä\n\x9b31m', user='x\ty')]}
    out = ctl('list').stdout
    assert out.count('\n') == 2
    assert '?[2Jä??31m' in out and 'x?y' in out and '\x1b' not in out and '\x9b' not in out
    assert '?[2J?????31m' in ctl('list', env={'LC_ALL': 'C'}).stdout


def test_squeezes_into_100_columns_by_cutting_names(ctl, fake):
    wide = row(id=123, pid=1234567, command='a-long-command-name', user='somebody-with-a-long-name',
               local='192.168.100.100:50000', remote='192.168.100.101:6379', age_s=4000)
    fake.answers['list'] = {'sessions': [wide]}
    lines = ctl('list').stdout.splitlines()
    assert [len(line) for line in lines] == [100, 100]
    assert lines[1].split()[4].endswith('+') and lines[1].split()[5].endswith('+')
    assert '192.168.100.100:50000 192.168.100.101:6379' in lines[1]


def test_uses_the_width_of_a_terminal(ctl, fake):
    fake.answers['list'] = {'sessions': [row(command='a-long-command-name', user='somebody-with-a-long-name')]}
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 25, 200, 0, 0))
    assert ctl('list', stdout=terminal).returncode == 0
    os.close(terminal)
    shown = os.read(control, 65536).decode()
    os.close(control)
    assert 'a-long-command-name  somebody-with-a-long-name  ' in shown


def test_a_full_disk_is_an_error(ctl, fake):
    for option in [], ['--json']:
        with open('/dev/full', 'w') as full:
            done = ctl('list', *option, stdout=full)
        assert done.returncode == 1 and 'No space left' in done.stderr
