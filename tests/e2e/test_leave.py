"""Sessions go back to TCP in mid-stream, by order, and come again; the programs never know."""

import signal
import threading
import time

import pytest

from harness import built_program, wait_until

LONG = ['--bytes', 300 << 20]


class Orders:
    """Orders all sessions back to TCP, again and again, while a program runs."""

    def __init__(self, agent, period, **how):
        self.agent, self.period, self.how = agent, period, how
        self.over = threading.Event()
        self.recalled = 0
        self.thread = threading.Thread(target=self._give)

    def _give(self):
        while not self.over.wait(self.period):
            self.recalled += self.agent.call('fallback', all=True, **self.how)['recalled']

    def __enter__(self):
        if not self.agent.plain:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        if not self.agent.plain:
            self.thread.join()


@pytest.mark.parametrize('holders', ['one', 'fork', 'split'])
@pytest.mark.parametrize('loop', ['threads', 'select', 'poll', 'epoll', 'epoll-edge', 'epoll-oneshot'])
@pytest.mark.parametrize('how', ['drain', 'resend'])
def test_ordered_down_under_load(agent, loop, holders, how):
    """With `resend` what was in the rings goes by TCP once more, as if the ends could not reach them any more."""
    load = agent.spawn([built_program('exact'), '--seed', 1, '--seconds', 100, '--connections', 8, '--loop', loop,
                        '--holders', holders, *LONG])
    with Orders(agent, 0.05, resend=how == 'resend') as orders:
        result = load.wait(110)
    assert result.out == 'ok, seed 1\n', repr(result)
    if not agent.plain:
        left = agent.stats()['sessions']['ends_left']
        print(f'{orders.recalled} orders, {left} ends left, {agent.stats()["sessions"]["total"]} sessions')
        assert left > 8


MANY = {'upgrade': {'after_calls': 2}, 'rings': {'bytes': 16384},
        'limits': {'sessions_per_user': 20000, 'ring_memory': '8GiB', 'ring_memory_per_user': '8GiB'}}


def test_ring_memory_is_a_cache(make_host):
    """10,000 connections, memory for 500 rings: the busy ones are in rings, whichever these are, and none is lost."""
    room, busy = 500, 300
    host = make_host({**MANY, 'limits': {'sessions_per_user': 20000, 'offers_per_user': 30000,
                                         'ring_memory': room * (2 * 16384 + 4096)}})
    load = host.spawn([built_program('many'), 10000, busy])
    wait_until(lambda: 'ready' in load.out() or not load.running(), 'all are connected', timeout=60)
    for _ in range(3):
        if not host.plain:
            # Not all: the last one that was busy may be one of a few that have to wait for others to become idle.
            wait_until(lambda: _moving(host) >= 2 * busy * 0.9, 'the busy ones are in rings', timeout=40, every=0.5)
            assert host.stats()['ring_memory']['bytes'] <= room * (2 * 16384 + 4096)
        load.send(signal.SIGUSR1)
    if not host.plain:
        recalled, total = (host.stats()['sessions'][key] for key in ('recalled', 'total'))
        print(f'{total} sessions were opened, {recalled} were recalled')
        assert total < 8 * room, 'sessions come and go'
    result = load.stop()
    assert result.code == 0 and 'ok, ' in result.out, repr(result)


def _moving(host):
    """How many ends of sessions carry bytes, within half a second."""
    before = {(row['id'], row['local']): row['rx_bytes'] for row in host.rings()}
    time.sleep(0.5)
    return sum(row['rx_bytes'] != before.get((row['id'], row['local'])) for row in host.rings())


@pytest.mark.parametrize('how', ['killed', 'stopped'])
def test_a_new_agent_takes_over_many_sessions(make_host, how):
    """They were an earlier agent's, go back to TCP, and are upgraded again by the new one: 1,000 within 2 s."""
    host = make_host(MANY)
    load = host.spawn([built_program('many'), 1000])
    wait_until(lambda: 'ready' in load.out() or not load.running(), 'all are connected')
    if not host.plain:
        wait_until(lambda: len(host.rings()) == 2000, 'all are in rings', every=0.1)
        host.kill_agent() if how == 'killed' else host.stop_agent()
        host.start_agent()
        begin = time.monotonic()
        wait_until(lambda: len(host.rings()) == 2000, 'all are in rings again', every=0.05)
        seconds = time.monotonic() - begin
        print(f'1,000 sessions were taken over in {seconds:.2f} s')
        assert seconds < 2 or host.sanitized
    result = load.stop()
    assert result.code == 0 and 'ok, ' in result.out, repr(result)
