"""The cases that our own measuring programs make: round trips, streams, sleepers, pairs, connections, single calls."""

import subprocess

from cases import NEVER_UNDER, Aim, Case, Metric, simple
from host import Failure, read_object

KIB = 1024
SIZES = {'64': 64, '1k': KIB, '16k': 16 * KIB, '64k': 64 * KIB, '1m': KIB * KIB}
SIZE_TITLES = {'64': '64 B', '1k': '1 KiB', '4k': '4 KiB', '16k': '16 KiB', '64k': '64 KiB', '1m': '1 MiB'}
STREAM_SIZES = {'64': 64, '4k': 4 * KIB, '64k': 64 * KIB, '1m': KIB * KIB}

FLOOR = (Aim('tcp', NEVER_UNDER),)
SOCKETS = ('tcp', 'unix', 'ours')


def family_of(variant):
    return 'unix' if variant == 'unix' else 'tcp'


def agent_of(variant, name='default'):
    return name if variant == 'ours' else None


def timeout_of(settings):
    return settings.seconds * 5 + 30


# ---- round trips and sleepers

def pingpong(host, settings, variant, agent='default', **parameters):
    """Runs pingpong over what `variant` says, the server on the near CPU and the client on the far one."""
    given = dict(server_cpus=host.near, client_cpus=host.far, seconds=settings.seconds, size=64) | parameters
    result = host.measure('pingpong', timeout_of(settings), agent_of(variant, agent), family=family_of(variant),
                          **given)
    result['payload_bytes'] = 2 * given['size'] * result['rounds']
    result['connections'] = given.get('pairs', 1)
    return result


def bare_ring(host, settings, **parameters):
    given = dict(server_cpus=host.near, client_cpus=host.far, seconds=settings.seconds) | parameters
    return host.measure('ring', timeout_of(settings), **given)


def round_trip(mode, size):
    def measure(host, settings, variant):
        if variant == 'ring':
            return bare_ring(host, settings, size=size)
        return pingpong(host, settings, variant, mode=mode, size=size)
    return simple(measure)


def asleep(parameters_of):
    """Both sides sleep before each round trip. `parameters_of(host)` says on which CPUs."""
    def measure(host, settings, variant):
        given = dict(parameters_of(host), size=64, pause_us=1500)
        if variant == 'ring':
            return bare_ring(host, settings, wait='sleep', **given)
        return pingpong(host, settings, variant, mode='block', **given)
    return simple(measure)


ROUND_TRIP_AIMS = {
    ('spin', '64'): (Aim('tcp', 20), Aim('ring', 2.5)),
    ('spin', '1k'): (Aim('tcp', 12),),
    ('spin', '16k'): (Aim('tcp', 4),),
    ('spin', '64k'): (Aim('tcp', 2.5),),
    ('spin', '1m'): (Aim('tcp', 3),),
    ('block', '64'): (Aim('tcp', 150), Aim('ring', 2.5)),
    ('epoll', '64'): (Aim('ring', 5),) + FLOOR,
}
MODE_TITLES = {'block': 'blocking', 'spin': 'spinning', 'epoll': 'epoll'}


def round_trip_cases():
    for mode in ('block', 'spin', 'epoll'):
        for name, size in SIZES.items():
            metric = Metric('us', '%s, %s' % (SIZE_TITLES[name], MODE_TITLES[mode]), 'us',
                            aims=ROUND_TRIP_AIMS.get((mode, name), FLOOR))
            yield Case('rt-%s-%s' % (mode, name), 'Round trips', [metric], round_trip(mode, size))
    metric = Metric('us', '64 B, spinning, with a sleep flag in the ring', 'us')
    yield Case('ring-flag', 'Round trips', [metric], variants=('ring',), open=simple(
        lambda host, settings, variant: bare_ring(host, settings, size=64, wait='flag')))


def asleep_cases():
    def one_cpu(host):
        return dict(server_cpus=host.near, client_cpus=host.near)

    places = (('asleep', '2 CPUs', lambda host: {}, False, 1.0),
              ('asleep-nohalt', '2 CPUs that never halt', lambda host: {}, True, 1.1),
              ('asleep-1cpu', '1 CPU', one_cpu, False, 2.0))
    for name, title, parameters_of, never_halting, limit in places:
        metric = Metric('us', '64 B, both sides asleep, ' + title, 'us', aims=(Aim('tcp', limit),))
        yield Case(name, 'Asleep', [metric], asleep(parameters_of), never_halting=never_halting)


# ---- many pairs

def pairs(count):
    def measure(host, settings, variant):
        both = '%d,%d' % (host.near, host.far)
        return pingpong(host, settings, variant, mode='block', pairs=count, server_cpus=both, client_cpus=both)
    return simple(measure)


def pair_cases():
    for count in (1, 2, 4, 8):
        metric = Metric('per_second', '%d pair%s on 2 CPUs, not pinned, 64 B, blocking' % (count, 's' * (count > 1)),
                        'round trips/s', 'higher', (Aim('tcp', NEVER_UNDER if count == 1 else 1.0),))
        yield Case('pairs-%d' % count, 'More processes than CPUs', [metric], pairs(count), SOCKETS)


# ---- streams

def stream(size):
    def measure(host, settings, variant):
        given = dict(size=size, seconds=settings.seconds, server_cpus=host.near, client_cpus=host.far)
        if variant == 'ring':
            return host.measure('ring', timeout_of(settings), test='stream', **given)
        result = host.measure('stream', timeout_of(settings), agent_of(variant), family=family_of(variant), **given)
        result['payload_bytes'] = result['bytes']
        result['connections'] = 1
        return result
    return simple(measure)


def stream_cases():
    for (name, size), limit in zip(STREAM_SIZES.items(), (40, 20, 6, 6)):
        title = 'writes of ' + SIZE_TITLES[name]
        yield Case('stream-' + name, 'Streams', open=stream(size), metrics=[
            Metric('gb_per_s', title, 'GB/s', 'higher', (Aim('tcp', limit),)),
            Metric('cpu_s_per_gb', title + ', CPU of both sides', 's/GB', aims=(Aim('cost', 0.35),))])


# ---- connections

def connections(agent):
    def measure(host, settings, variant):
        return host.measure('connrate', timeout_of(settings), agent_of(variant, agent), family=family_of(variant),
                            seconds=settings.seconds, server_cpus=host.near, client_cpus=host.far)
    return simple(measure)


def connection_cases():
    title = 'connect, 64 B request and reply, close'
    yield Case('connect', 'Connections', [Metric('us', title, 'us', aims=(Aim('cost', 1.6),))],
               connections('default'), SOCKETS, ring=False)
    # Offered at its first byte, which no configuration does by itself: what an upgrade costs a short connection.
    yield Case('connect-eager', 'Connections', [Metric('us', title + ', offered at once', 'us')],
               connections('eager'), SOCKETS, agent='eager', ring=None)


# ---- what is not accelerated

# Each with the number of library calls that one measured call makes.
CALLS = {'write-null': 1, 'read-zero': 1, 'write-read-pipe': 2, 'poll-pipe': 1, 'select-pipe': 1, 'epoll-wait-pipe': 1,
         'fcntl-pipe': 1, 'dup-close-pipe': 2, 'send-recv-unix': 2, 'send-recv-tcp': 2}
EXTRA_NS = 30


def call(name):
    def measure(host, settings, variant):
        return host.measure('calls', timeout_of(settings), agent_of(variant, 'never'), call=name, cpus=host.near,
                            seconds=settings.seconds / 2)
    return simple(measure)


def denied(mode):
    """A connection that the configuration keeps on TCP."""
    def measure(host, settings, variant):
        return pingpong(host, settings, variant, agent='never', mode=mode)
    return simple(measure)


def call_cases():
    group = 'What is not accelerated (TCP: without the library; ours: with it)'
    for name, count in CALLS.items():
        metric = Metric('ns', name.replace('-', ' '), 'ns', aims=(Aim('extra', EXTRA_NS * count),))
        yield Case('call-' + name, group, [metric], call(name), ('tcp', 'ours'), agent='never', ring=False)
    for mode in ('block', 'spin'):
        metric = Metric('us', '64 B round trip, %s, port denied' % MODE_TITLES[mode], 'us', aims=(Aim('tcp', 0.98),))
        yield Case('denied-rt-' + mode, group, [metric], denied(mode), ('tcp', 'ours'), agent='never', ring=False)


# ---- nothing flows

def idle(host, settings, variant):
    """CPU time of a process with many upgraded connections, and of its agent, while nothing flows."""
    count, agent = 100, host.agent() if variant == 'ours' else None
    command = [host.program('idle'), 'connections=%d' % count, 'seconds=%g' % max(settings.seconds, 1),
               'family=' + family_of(variant)]
    before = agent.counters() if agent else (0, 0)
    process = host.spawn(command, agent=agent_of(variant), stdout=subprocess.PIPE)
    try:
        read_object(process, 'idle')
        if agent:
            used, sessions = (now - then for now, then in zip(agent.counters(), before))
            agent_before = agent.cpu_ms()
        result = read_object(process, 'idle')
        if agent:
            result['agent_cpu_ms_per_s'] = (agent.cpu_ms() - agent_before) / max(settings.seconds, 1)
            result['upgraded_sessions'] = sessions
            result['payload_bytes'] = 64 * count
    finally:
        host.end(process)
    return result


def idle_cases():
    # A tick now and then may be; a busy thread would show as 1000.
    metrics = [Metric('cpu_ms_per_s', '100 idle connections: the process', 'ms/s', aims=(Aim('value', 1),)),
               Metric('agent_cpu_ms_per_s', '100 idle connections: the agent', 'ms/s', aims=(Aim('value', 1),))]
    yield Case('idle', 'Nothing flows', metrics, simple(idle), ('tcp', 'ours'))


# ---- the agent, between hosts

TURNS = {'post': 'a message of 64 B posted', 'receive': 'one received by an application that looks',
         'wake': 'one received by an application that sleeps', 'look': 'nothing to do'}


def turn(name):
    def measure(host, settings, variant):
        return host.measure('turns', timeout_of(settings), turn=name, sessions=1000)
    return simple(measure)


def turn_cases():
    """What the data thread executes, of its own code: without the RDMA device's, and without the kernel's."""
    group = 'The agent, between two hosts (1,000 sessions, of which one is busy)'
    for name, title in TURNS.items():
        metrics = [Metric('instructions', title, 'instructions'),
                   Metric('ns', title, 'ns', aims=(Aim('value', 300),))]
        yield Case('agent-' + name, group, metrics, turn(name), ('ours',), ring=None)


def cases():
    for family in (round_trip_cases, asleep_cases, pair_cases, stream_cases, connection_cases, call_cases, idle_cases,
                   turn_cases):
        yield from family()
