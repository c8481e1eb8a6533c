"""Faults at random times under checksummed connections on one host: no byte is lost or doubled, and none fails.

More by command: `scons chaos faults=10000`. The seed that pytest prints repeats a run, as far as time can be repeated.
"""

import chaos

FAULTS = 40


def test_chaos(make_host, chance):
    host = make_host(chaos.random_config(chance))
    made = chaos.Chaos(chaos.Faults([host], chance), lambda: chaos.job_on_one_host(host, chance), chance)
    made.run(0 if host.plain else FAULTS)
    if not host.plain:
        summary = made.summary()
        print(summary)
        assert summary['fallbacks of ends'] > 0
