#!/usr/bin/env python3
"""Measures TCP loopback, Unix sockets, TCP under the library, and a bare ring in shared memory, in turns.

Prints a table and writes it, and all samples, beside what was built: bench.md and bench.json. Starts agents of its own
in a temporary directory. Every measurement under the library is checked for having used a ring.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import signal
import sys
import time
from pathlib import Path

import machine
import micro
import programs
import report
import stall
from cases import VARIANTS, Settings
from host import Failure, Host, Unavailable

ROOT = Path(__file__).resolve().parents[2]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', metavar='NAME,...', help='these cases; * and ? match: rt-spin-*,redis-1')
    parser.add_argument('--variants', metavar='NAME,...', default=','.join(VARIANTS),
                        help='these variants (default: %(default)s)')
    parser.add_argument('--rounds', type=int, help='how often the variants take turns (default: 5)')
    parser.add_argument('--seconds', type=float, help='of one measurement; programs take twice that (default: 1)')
    parser.add_argument('--quick', action='store_true',
                        help='2 rounds of 0.2 s, a short psql replay: shows that it works, not how well')
    parser.add_argument('--cpus', metavar='A,B', help='the CPUs of servers and of clients (default: the first two)')
    parser.add_argument('--output', metavar='FILE', type=Path, help='where to write (default: BUILD/bench.json)')
    parser.add_argument('--list', action='store_true', help='print the names of the cases and end')
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.2 if options.quick else 1.0)
    if options.rounds < 1 or options.seconds <= 0:
        parser.error('--rounds and --seconds must be above 0')
    options.variants = options.variants.split(',')
    unknown = set(options.variants) - set(VARIANTS)
    if unknown:
        parser.error('--variants %s: expected some of %s' % (','.join(sorted(unknown)), ','.join(VARIANTS)))
    try:
        options.cpus = machine.choose_cpus(options.cpus)
    except ValueError as error:
        parser.error(str(error))
    return options


def choose_cases(only):
    """The cases whose names match one of the comma-separated patterns; all without any."""
    every = list(micro.cases()) + list(programs.cases()) + list(stall.cases())
    if not only:
        return every
    for pattern in only.split(','):
        if not fnmatch.filter([case.name for case in every], pattern):
            raise SystemExit('bench: --only %s: there is no such case; --list prints them' % pattern)
    return [case for case in every if any(fnmatch.fnmatch(case.name, pattern) for pattern in only.split(','))]


def say(text, end='\n'):
    print(text, end=end, file=sys.stderr, flush=True)


# ---- one case

def ring_traffic(agent, before, sample):
    """What went through rings since `before`. Waits a moment for the agent to have counted what was moved."""
    deadline = time.monotonic() + 1
    while True:
        used, sessions = (now - then for now, then in zip(agent.counters(), before))
        if used >= sample.get('payload_bytes', 0) or time.monotonic() > deadline:
            return {'ring_bytes': used, 'sessions': sessions}
        time.sleep(0.05)


def take_sample(host, case, variant, measure):
    """One measurement of one variant, with what is to be known about it."""
    agent = host.agent(case.agent) if variant == 'ours' else None
    before = agent.counters() if agent else None
    watch = machine.Watch()
    sample = dict(measure(variant))
    sample.update(watch.disturbance())
    if agent and case.ring is not False:
        sample.update(ring_traffic(agent, before, sample))
    elif agent:
        sample['ring_bytes'] = agent.counters()[0] - before[0]
    return sample


def take_turns(host, case, measure, rounds, samples, notes):
    """Lets the variants take turns. A round that something else disturbed is had again, at most as often as asked for.
    """
    again = rounds
    while rounds > 0:
        disturbed = False
        for variant, taken in samples.items():
            sample = take_sample(host, case, variant, measure)
            taken.append(sample)
            disturbed |= sample['disturbed']
            note = report.ring_note(case.ring, sample) if variant == 'ours' else None
            if note and not notes:      # the first says it all
                notes.append(note)
        say('~' if disturbed else '.', end='')
        if disturbed and again > 0:
            again -= 1
        else:
            rounds -= 1


def take_samples(host, case, settings, rounds, samples, notes):
    """Fills `samples` and `notes`, which stay valid when it raises."""
    with contextlib.ExitStack() as stack:
        measure = stack.enter_context(case.open(host, settings))
        if case.never_halting:
            stack.enter_context(host.never_halting())
        take_turns(host, case, measure, rounds, samples, notes)


def run_case(host, case, options):
    """Measures one case and returns its result; what went wrong is among the notes."""
    variants = [variant for variant in case.variants
                if variant in options.variants and (variant != 'ours' or host.library)]
    samples, notes, failed = {variant: [] for variant in variants}, [], False
    result = {'name': case.name, 'group': case.group, 'probe_ns': line_probe(host), 'failed': False}
    say('%-22s ' % case.name, end='')
    try:
        take_samples(host, case, Settings(options.seconds, options.quick), options.rounds, samples, notes)
    except Unavailable as missing:
        notes.append('not measured: %s' % missing)
    except Failure as failure:
        failed = True
        notes.append('FAILED: %s' % failure)
    result.update(samples=samples, notes=notes, failed=failed,
                  metrics=[report.judge(metric, samples) for metric in case.metrics])
    say(' ' + '; '.join([brief(metric) for metric in result['metrics']] + notes))
    return result


def brief(metric):
    """One metric in a few words, as progress."""
    words = ['%s %s' % (variant, report.number(summary['median'])) for variant, summary in metric['variants'].items()]
    return '%s: %s' % (metric['unit'], ', '.join(words) or '–')


def line_probe(host):
    if host.near == host.far:
        return None
    return host.measure('probe', 10, cpus='%d,%d' % (host.near, host.far), seconds=0.05)['ns']


# ---- all of them

def run(host, chosen, options):
    """Returns what bench.json holds; of an interrupted run, the cases that were complete."""
    outcome = {'version': 1, 'machine': machine.facts(ROOT), 'library': bool(host.library),
               'settings': {'rounds': options.rounds, 'seconds': options.seconds, 'cpus': options.cpus,
                            'quick': options.quick, 'variants': options.variants},
               'probes': [], 'cases': [], 'interrupted': False}
    try:
        for case in chosen:
            result = run_case(host, case, options)
            outcome['cases'].append(result)
            if result['probe_ns']:
                outcome['probes'].append(result['probe_ns'])
    except KeyboardInterrupt:
        outcome['interrupted'] = True
        say('\nbench: interrupted')
    return outcome


def main():
    options = parse()
    chosen = choose_cases(options.only)
    if options.list:
        print('\n'.join(case.name for case in chosen))
        return 0
    build = Path(os.environ.get('RDMA_BUILD', ROOT / 'build'))
    signal.signal(signal.SIGTERM, signal.default_int_handler)   # ends what was started
    with contextlib.closing(Host(build, options.cpus)) as host:
        try:
            outcome = run(host, chosen, options)
        except (Failure, Unavailable) as error:
            say('bench: %s' % error)
            return 1
    if not outcome['cases']:
        return 130
    output = options.output or build / 'bench.json'
    output.write_text(json.dumps(outcome, indent=1) + '\n')
    document = report.document(outcome)
    output.with_suffix('.md').write_text(document)
    print(document)
    print('Written to %s and %s.' % (output, output.with_suffix('.md')))
    if outcome['interrupted']:
        return 130
    return 1 if any(result['failed'] for result in outcome['cases']) else 0


if __name__ == '__main__':
    sys.exit(main())
