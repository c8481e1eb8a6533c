"""Faults at random times under checksummed connections between two hosts, over real verbs; see e2e/chaos.py."""

import chaos
from in_links import connect

FAULTS = 5

# Of each job: what crosses the link in a second or two.
MOST_BYTES = 4 << 20


def test_chaos(make_hosts, chance):
    hosts = make_hosts(**chaos.random_config(chance))
    connect(hosts[0], hosts=hosts)
    made = chaos.Chaos(chaos.LinkFaults(hosts, chance), lambda: chaos.job_on_two_hosts(hosts, chance, MOST_BYTES), chance,
                       jobs=1, pause=1)
    made.run(FAULTS)
    summary = made.summary()
    print(summary)
    assert summary['ends in rings'] > 0
