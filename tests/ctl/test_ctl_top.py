"""rdmactl top: what it measures, in which order, and how it ends."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import termios
import time

import pytest
from fake_agent import row


class Traffic:
    """A `list` in which the sessions move, each by so many bytes in a second."""

    def __init__(self, **speeds):
        self.speeds = speeds
        self.begin = time.monotonic()

    def __call__(self, params):
        age = time.monotonic() - self.begin + 1
        return {'sessions': [row(id=number, local=name, age_s=age, tx_bytes=int(speed * age), rx_bytes=7)
                             for number, (name, speed) in enumerate(self.speeds.items(), 1)]}


def names(rows):
    return [one['local'] for one in rows]


def test_sorted_by_throughput(ctl, fake):
    fake.answers['list'] = Traffic(slow=1 << 10, fast=1 << 20, still=0, middle=1 << 15)
    begin = time.time()
    lines = ctl('top', '-d', '0.3', '-n', '3', '--json').stdout.splitlines()
    refreshes = [json.loads(line) for line in lines]
    assert len(refreshes) == 3
    for refresh in refreshes:
        assert set(refresh) == {'time', 'sessions'} and begin - 1 < refresh['time'] < time.time() + 1
        assert names(refresh['sessions']) == ['fast', 'middle', 'slow', 'still']
        assert refresh['sessions'][0]['tx_rate'] == pytest.approx(1 << 20, rel=0.3)
        assert refresh['sessions'][3]['tx_rate'] == 0
    # The first is the average over the life, of which 7 bytes are a part; later ones see that nothing came in.
    assert refreshes[0]['sessions'][0]['rx_rate'] in range(5, 8)
    assert refreshes[1]['sessions'][0]['rx_rate'] == 0
    assert refreshes[2]['time'] - refreshes[0]['time'] == pytest.approx(0.6, abs=0.4)


def test_a_session_that_ended_and_one_that_began(ctl, fake):
    lists = iter([[row(id=1, tx_bytes=1000, age_s=1)], [row(id=2, tx_bytes=100, age_s=0.1)]])
    fake.answers['list'] = lambda params: {'sessions': next(lists)}
    first, second = map(json.loads, ctl('top', '-d', '0.2', '-n', '2', '--json').stdout.splitlines())
    assert [(one['id'], one['tx_rate']) for one in first['sessions']] == [(1, 1000)]
    assert second['sessions'][0]['id'] == 2 and second['sessions'][0]['tx_rate'] == pytest.approx(500, rel=0.5)


def test_both_ends_of_a_session_are_told_apart(ctl, fake):
    lists = iter([[row(id=1, local='a', remote='b', tx_bytes=0), row(id=1, local='b', remote='a', tx_bytes=10 ** 6)],
                  [row(id=1, local='a', remote='b', tx_bytes=10), row(id=1, local='b', remote='a', tx_bytes=10 ** 6)]])
    fake.answers['list'] = lambda params: {'sessions': next(lists)}
    second = json.loads(ctl('top', '-d', '0.2', '-n', '2', '--json').stdout.splitlines()[1])
    assert names(second['sessions']) == ['a', 'b']
    assert second['sessions'][0]['tx_rate'] > 0 and second['sessions'][1]['tx_rate'] == 0


def test_counters_that_make_no_sense(ctl, fake):
    huge = (1 << 63) - 1
    lists = iter([[row(tx_bytes=huge, rx_bytes=-huge, age_s=-5)], [row(tx_bytes=-huge, rx_bytes=huge, age_s=1e300)]] * 2)
    fake.answers['list'] = lambda params: {'sessions': next(lists)}
    rates = [(one['sessions'][0]['tx_rate'], one['sessions'][0]['rx_rate'])
             for one in map(json.loads, ctl('top', '-d', '0.1', '-n', '2', '--json').stdout.splitlines())]
    assert rates == [(0, 0), (0, 10 ** 18)]
    assert ctl('top', '-d', '0.1', '-n', '2').returncode == 0


def test_the_table(ctl, fake):
    fake.answers['list'] = {'sessions': [row(tx_bytes=3 << 20, rx_bytes=2048, age_s=2)]}
    done = ctl('top', '-n', '1')
    summary, titles, line, empty = done.stdout.split('\n')[:4]
    assert re.fullmatch(r'\d\d:\d\d:\d\d  1 ends, sent 1.5 MiB/s, received 1.0 KiB/s', summary)
    assert titles.split() == ['TX/s', 'RX/s', 'ID', 'TRANSPORT', 'PID', 'COMMAND', 'LOCAL', 'REMOTE', 'TX', 'RX']
    assert line.split() == ['1.5M', '1.0K', '1', 'shm', '4711', 'redis-server', '127.0.0.1:6379', '127.0.0.1:40000',
                            '3.0M', '2.0K']
    assert empty == '' and '\x1b' not in done.stdout and done.stderr == ''


def test_on_a_terminal_each_refresh_replaces_the_one_before(ctl, fake):
    fake.answers['list'] = {'sessions': [row(id=number) for number in range(1, 100)]}
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 10, 120, 0, 0))
    process = ctl.start('top', '-d', '0.1', '-n', '2', stdout=terminal)
    os.close(terminal)
    shown = b''
    while True:
        try:
            shown += os.read(control, 65536)
        except OSError:     # how a terminal says that nobody has it open any more
            break
    os.close(control)
    process.communicate(timeout=20)
    frames = shown.decode().split('\x1b[H\x1b[J')
    assert frames[0] == '' and len(frames) == 3
    assert frames[1].count('\n') == 9       # so that the first line does not scroll away


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly_when_interrupted(ctl, fake, number):
    fake.answers['list'] = {'sessions': [row()]}
    process = ctl.start('top', '-d', '30', '--json')
    line = process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert json.loads(line)['sessions'] and (out, err, process.returncode) == ('', '', 0)


def test_ends_cleanly_when_interrupted_while_the_agent_hangs(ctl, fake):
    fake.raw = lambda connection, line: fake.wait(60)
    process = ctl.start('top')
    while not fake.requests:
        time.sleep(0.01)
    time.sleep(0.1)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert time.monotonic() - begin < 3 and (out, err, process.returncode) == ('', '', 0)


def test_ends_when_the_agent_does(ctl, fake):
    process = ctl.start('top', '-d', '0.2')
    process.stdout.readline()
    fake.close()
    assert 'no agent answers' in process.communicate(timeout=10)[1] and process.returncode == 3


def test_ends_when_its_output_is_full(ctl, fake):
    with open('/dev/full', 'w') as full:
        for option in [], ['--json']:
            assert ctl('top', '-d', '0.1', *option, stdout=full).returncode == 1


@pytest.mark.parametrize('option', [['-d', '0'], ['-d', 'x'], ['-d', '1x'], ['-d', '-1'], ['-d', 'nan'], ['-d', '1e9'],
                                    ['-d', ''], ['-n', '-1'], ['-n', 'x'], ['--delay', '0.01'], ['--count=1.5']])
def test_options_that_make_no_sense(ctl, fake, option):
    done = ctl('top', *option)
    assert done.returncode == 2 and 'expected' in done.stderr and not fake.requests
