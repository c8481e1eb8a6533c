"""The cases in which the agent fails: for how long nothing arrives on a connection whose agent is killed, or hangs."""

import statistics
import subprocess
import time

from cases import Aim, Case, Metric, simple
from host import Failure, read_object

WINDOW = 1.0        # seconds for each failure, and for the connection to be in a ring again
FAILURES = 4        # in each measurement
HANG = 0.1          # of them the agent hangs

# Beyond what TCP itself needs, which is the scheduler's doing.
MOST_MS = 50


def kill(agent):
    agent.kill()
    agent.start()


def hang(agent):
    agent.pause(HANG)


def fail_often(agent, trouble, windows):
    """Once in each window, if the connection is in a ring (again) by then. Returns how often."""
    begin, failures = time.monotonic(), 0
    for i in range(windows):
        time.sleep(max(0.0, begin + (i + 0.1) * WINDOW - time.monotonic()))
        while agent.counters()[1] == 0 and time.monotonic() < begin + (i + 0.7) * WINDOW:
            time.sleep(0.02)
        if agent.counters()[1]:
            trouble(agent)
            failures += 1
    return failures


def stall(kind, size, trouble):
    def measure(host, settings, variant):
        windows = 2 if settings.quick else FAILURES
        agent = host.agent('mortal') if variant == 'ours' else None
        command = [host.program('stall'), 'kind=' + kind, 'size=%d' % size, 'windows=%d' % windows,
                   'window_ms=%d' % (1000 * WINDOW), 'server_cpus=%d' % host.near, 'client_cpus=%d' % host.far]
        process = host.spawn(command, agent='mortal' if agent else None, stdout=subprocess.PIPE)
        try:
            read_object(process, 'stall')
            failures = fail_often(agent, trouble, windows) if agent else windows
            gaps = read_object(process, 'stall')['gaps_ms']
        finally:
            host.end(process)
        if failures <= windows // 2:
            raise Failure('stall: the connection was in a ring in %d of %d stretches only' % (failures, windows))
        return {'ms': statistics.median(gaps), 'worst_ms': max(gaps), 'gaps_ms': gaps, 'failures': failures}
    return simple(measure)


def cases():
    group = 'The agent fails (longest time in which nothing arrives; TCP: without agent and library)'
    for kind, size, title in ('stream', 16384, 'stream of 16 KiB writes'), ('pingpong', 64, '64 B round trips'):
        for name, trouble, what in ('killed', kill, 'killed and started'), ('hung', hang, 'stopped for 0.1 s'):
            text = '%s, agent %s' % (title, what)
            yield Case('stall-%s-%s' % (kind, name), group, open=stall(kind, size, trouble), variants=('tcp', 'ours'),
                       agent='mortal', ring=None, metrics=[
                           Metric('ms', text + ', median of %d' % FAILURES, 'ms', aims=(Aim('extra', MOST_MS),)),
                           Metric('worst_ms', text + ', longest of %d' % FAILURES, 'ms', aims=(Aim('extra', MOST_MS),))])
