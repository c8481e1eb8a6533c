"""Every byte of many connections, in every way of waiting and of sharing sockets, across the moment of the upgrade.

`exact/main.c` says what the program does. Thresholds and ring sizes are random; pytest prints the seed that repeats
them, and each run of the program is given a seed of its own from it.
"""

import json

import pytest

from harness import built_program

LOOPS = ['threads', 'poll', 'select', 'epoll', 'epoll-edge', 'epoll-oneshot']
HOLDERS = ['one', 'fork', 'split']


def random_config(chance):
    """Upgrades after the first call, or in the middle of everything; rings from the smallest to large ones."""
    return {'upgrade': {'after_calls': chance.choice((1, 2, 5, 20, 100)),
                        'after_bytes': chance.choice((1, 1000, 65536, 1 << 20))},
            'rings': {'bytes': 1 << chance.randrange(14, 21)}}


def exact(agent, chance, *options):
    seed = chance.randrange(1 << 48)
    result = agent.run([built_program('exact'), '--seed', seed, *options], timeout=70)
    assert result.out == f'ok, seed {seed}\n', repr(result)


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('holders', HOLDERS)
def test_exact(make_host, chance, loop, holders):
    config = random_config(chance)
    print(json.dumps(config))
    agent = make_host(config)
    for family in ([], ['--ipv6']):
        before = agent.ring_bytes()
        exact(agent, chance, '--loop', loop, '--holders', holders, '--connections', 12, '--bytes', 32 << 20, *family)
        agent.expect_ring(1_000_000, since=before)
    expect_all_received(agent)


def expect_all_received(agent):
    """Connections that ended in good order leave nothing in their rings."""
    if not agent.plain:
        counted = agent.stats()['bytes']
        assert counted['tx'] == counted['rx'], counted


def test_threads(make_host, chance):
    """In short, for a thread sanitizer: threads that share connections, and connections that share an agent."""
    agent = make_host({'upgrade': {'after_calls': 2}, 'rings': {'bytes': 65536}})
    exact(agent, chance, '--loop', 'threads', '--connections', 8, '--bytes', 8 << 20)
    exact(agent, chance, '--shared', '--connections', 2, '--receivers', 2)
    agent.expect_ring()
    expect_all_received(agent)


def test_many_connections(make_host, chance):
    agent = make_host({'upgrade': {'after_calls': 3}, 'rings': {'bytes': 16384}})
    exact(agent, chance, '--loop', 'epoll-edge', '--holders', 'one', '--connections', 300, '--bytes', 3_000_000)
    agent.expect_ring(10_000_000)
    expect_all_received(agent)


def test_short_connections(make_host, chance):
    """Streams of a few bytes, which often end while their upgrade is under way."""
    agent = make_host({'upgrade': {'after_calls': 1}})
    for loop in LOOPS:
        exact(agent, chance, '--loop', loop, '--holders', chance.choice(HOLDERS), '--connections', 60, '--bytes', 3000)
    expect_all_received(agent)


@pytest.mark.parametrize('receivers', [1, 3])
def test_threads_that_share_a_socket(make_host, chance, receivers):
    """With several receivers one is always in the kernel, waiting: that direction may remain there."""
    agent = make_host({'upgrade': {'after_calls': chance.choice((1, 10))}})
    exact(agent, chance, '--shared', '--connections', 3, '--receivers', receivers)
    if receivers == 1:
        agent.expect_ring()     # how soon the last sender is out of the kernel depends on the machine's load
    expect_all_received(agent)
