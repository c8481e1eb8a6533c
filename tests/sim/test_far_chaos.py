"""Faults at random times under checksummed connections between two hosts; see e2e/chaos.py."""

import chaos
import pytest

from harness import BUILD

# What the connections of a program carry each way: so little that it is done soon after the last fault.
MOST_BYTES = 16 << 20

# How many there are in this short form. Each agent that is killed takes seconds until the other host has noticed.
FAULTS = {'closed': 20, 'killed': 8}


@pytest.mark.parametrize('kills', [True, False], ids=['killed', 'closed'])
@pytest.mark.skipif('san' in BUILD.name, reason='takes minutes, and programs of this kind run under sanitizers elsewhere')
def test_far_chaos(make_hosts, chance, kills):
    """Either agents are killed, or connections closed while something of them is in an agent's hands alone."""
    hosts = make_hosts(**chaos.random_config(chance))
    both = list(hosts)
    made = chaos.Chaos(chaos.SimFaults(both, chance, kills),
                       lambda: chaos.job_on_two_hosts(both, chance, MOST_BYTES, kills), chance)
    made.run(0 if hosts.one.plain else FAULTS['killed' if kills else 'closed'])
    if not hosts.one.plain:
        for host in hosts:
            host.order('delay 0')
        summary = made.summary()
        print(summary)
        assert summary['fallbacks of ends'] > 0
