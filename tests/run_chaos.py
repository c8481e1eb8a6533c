#!/usr/bin/env python3
"""Faults at random times under checksummed connections, as many as are wanted: `scons chaos faults=10000`.

Several workers go on side by side, each with hosts, agents and connections of its own: some with one host, and, where
network namespaces can be made, some with two. The last line is the sum of what they did. A worker that finds anything
wrong says what, and with it ends the run; so does its seed, as far as time can be repeated.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / 'e2e'), str(HERE / 'sim')]

import chaos  # noqa: E402
import harness  # noqa: E402
import sim_hosts  # noqa: E402
import two_hosts  # noqa: E402

# Seconds between two lines of progress, and in which a worker must have done something.
PROGRESS = 10
SILENCE = 300


@contextlib.contextmanager
def one_host(chance):
    host = harness.Host(False, chaos.random_config(chance))
    with contextlib.closing(host):
        yield chaos.Chaos(chaos.Faults([host], chance), lambda: chaos.job_on_one_host(host, chance), chance)


@contextlib.contextmanager
def two_simulated_hosts(chance):
    network = two_hosts.Network()
    with contextlib.closing(network):
        network.open()
        hosts = sim_hosts.Hosts(False, network, **chaos.random_config(chance))
        with contextlib.closing(hosts):
            both, kills = list(hosts), chance.random() < 0.5
            yield chaos.Chaos(chaos.SimFaults(both, chance, kills),
                              lambda: chaos.job_on_two_hosts(both, chance, hold=kills), chance)
            for host in hosts:
                host.order('delay 0')


KINDS = {'one-host': one_host, 'two-hosts': two_simulated_hosts}


def say(state, numbers):
    print(json.dumps([state, numbers]), flush=True)


def work(kind, seed, faults):
    """One worker: lines of JSON for the one who started it. It begins anew, with other rings, now and then."""
    chance, before = random.Random(seed), {}
    while before.get('faults', 0) < faults:
        with KINDS[kind](chance) as made:
            try:
                made.run(min(200, faults - before.get('faults', 0)),
                         lambda numbers, before=before: say('progress', add(before, numbers)))
                before = add(before, made.summary())
            except BaseException:
                for name, text in [*made.faults.hosts[0].logs(), *made.faults.hosts[-1].logs()]:
                    print(f'--- {name}\n{text}', file=sys.stderr)
                raise
    say('done', before)


def add(*many):
    names = dict.fromkeys(name for numbers in many for name in numbers)
    return {name: sum(numbers.get(name, 0) for numbers in many) for name in names}


class Worker:
    def __init__(self, kind, seed, faults, scratch):
        self.kind, self.seed, self.numbers, self.done = kind, seed, {}, False
        self.heard = time.monotonic()
        self.errors = open(scratch / f'{kind}-{seed}.log', 'w+')
        command = [sys.executable, __file__, '--worker', kind, '--seed', str(seed), '--faults', str(faults)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.heard = time.monotonic()
            state, self.numbers = json.loads(line)
            self.done = state == 'done'

    def running(self):
        return self.process.poll() is None

    def went_wrong(self):
        """What, or None."""
        if self.running():
            silent = time.monotonic() - self.heard
            return f'nothing was heard of it for {silent:.0f} s' if silent > SILENCE else None
        self.reader.join(10)
        if self.process.returncode == 0 and self.done:
            return None
        self.errors.seek(0)
        return f'exit status {self.process.returncode}\n{self.errors.read()}'

    def end(self):
        """Gently: it ends what it has started."""
        if self.running():
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()


def watch(workers):
    """Until all are done. Returns what went wrong, or None."""
    begin = said = time.monotonic()
    while any(worker.running() for worker in workers):
        time.sleep(0.2)
        for worker in workers:
            wrong = worker.went_wrong()
            if wrong:
                return f'{worker.kind}, seed {worker.seed}: {wrong}'
        if time.monotonic() - said > PROGRESS:
            said = time.monotonic()
            print(f'{said - begin:5.0f} s: {in_words(add(*(worker.numbers for worker in workers)))}', flush=True)
    wrong = [f'{worker.kind}, seed {worker.seed}: {worker.went_wrong()}' for worker in workers if worker.went_wrong()]
    return wrong[0] if wrong else None


def in_words(numbers):
    return ', '.join(f'{number:,} {name.replace("_", " ")}' for name, number in numbers.items())


def divide(faults, parts):
    return [faults // parts + (i < faults % parts) for i in range(parts)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--faults', type=int, default=int(os.environ.get('RDMA_CHAOS_FAULTS', 1000)))
    parser.add_argument('--seed', type=int, default=random.randrange(1 << 30))
    parser.add_argument('--workers', nargs='*', choices=KINDS, help='kinds of workers [two of each]')
    parser.add_argument('--worker', choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.seed, arguments.faults)
        return 0
    kinds = arguments.workers or 2 * list(KINDS)
    reason = two_hosts.why_not()
    if reason:
        print(f'only with one host: {reason}')
        kinds = [kind for kind in kinds if kind != 'two-hosts']
    scratch = harness.BUILD / 'chaos'
    scratch.mkdir(exist_ok=True)
    print(f'{arguments.faults} faults, seed {arguments.seed}', flush=True)
    workers = [Worker(kind, arguments.seed + i, part, scratch)
               for i, (kind, part) in enumerate(zip(kinds, divide(arguments.faults, len(kinds))))]
    try:
        wrong = watch(workers)
    finally:
        for worker in workers:
            worker.end()
    if wrong:
        print(wrong)
    print(f'{in_words(add(*(worker.numbers for worker in workers)))}, {1 if wrong else 0} errors; seed {arguments.seed}')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
