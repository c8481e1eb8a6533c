#!/usr/bin/python3
"""Measures in a guest: raw verbs, the kernel's TCP, and TCP programs under the library, by turns in one run.

Medians of some rounds; what the machine is doing besides shows in the spread, so each figure comes with its least and
greatest. Run by tests/vm/measure.py.
"""

import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / 'e2e')]

import harness  # noqa: E402
import hosts  # noqa: E402
import roce  # noqa: E402

PORT = 7100
SECONDS = 1.5


def pair(server, client):
    """The output of the client of a pair of perftest programs, which talk over the device."""
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving:
        time.sleep(0.5)
        try:
            return subprocess.run([*client, roce.ADDRESSES[0]], timeout=40, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT).stdout
        except subprocess.TimeoutExpired:
            return ''
        finally:
            serving.kill()


def figures(output, columns):
    """The numbers of the one line of figures in the output of a perftest program."""
    for line in output.splitlines():
        words = line.split()
        if len(words) >= columns and all(re.fullmatch(r'[\d.]+', word) for word in words):
            return [float(word) for word in words]
    return None


def write_latency(size):
    """One way, typical (their median), in us."""
    command = ['ib_write_lat', '-R', '-s', str(size), '-n', '5000']
    found = figures(pair(command, command), 9)
    return found and found[4]


def write_bandwidth(size):
    """MB/s with few writes in flight."""
    command = ['ib_write_bw', '-R', '-s', str(size), '-t', '8', '-n', '1000']
    found = figures(pair(command, command), 5)
    return found and found[3] * 1.048576


def round_trip(a, b, size, accelerated, *options):
    """The median, in us."""
    server = b.spawn([harness.BUILD / 'examples/pingpong-server', '--quiet', '--host', b.address, '--port', PORT,
                      *options], accelerated)
    b.wait_for_port(PORT, server)
    result = a.run([harness.BUILD / 'examples/pingpong-client', '--host', b.address, '--port', PORT, '--json', '--size',
                    size, '--seconds', SECONDS, *options], accelerated)
    server.kill()
    return json.loads(result.out)['latency_us']['p50']


def stream(a, b, size, accelerated):
    """MB/s that iperf3 gets, from a to b."""
    server = b.spawn(['iperf3', '-s', '-p', PORT, '-1'], accelerated)
    b.wait_for_port(PORT, server)
    result = a.run(['iperf3', '-c', b.address, '-p', PORT, '-l', size, '-t', 2, '-J'], accelerated)
    server.kill()
    return json.loads(result.out)['end']['sum_received']['bits_per_second'] / 8e6


def print_row(title, values):
    values = [value for value in values if value]
    if values:
        print(f'{title:52} {statistics.median(values):9.1f}   ({min(values):.1f} to {max(values):.1f})', flush=True)
    else:
        print(f'{title:52} no result', flush=True)
    return statistics.median(values) if values else None


def ratio(title, above, below):
    if above and below:
        print(f'{title:52} {above / below:9.2f}', flush=True)


def measure_round_trips(a, b, size, rounds):
    raw, tcp, ours, spinning = [], [], [], []
    for _ in range(rounds):
        raw.append(write_latency(size))
        tcp.append(round_trip(a, b, size, False))
        ours.append(round_trip(a, b, size, True))
        spinning.append(round_trip(a, b, size, True, '--poll'))
    print(f'\nround trip of {size} bytes, us')
    raw = print_row('two one-way ib_write_lat', [value and 2 * value for value in raw])
    tcp = print_row('TCP', tcp)
    ours = print_row('TCP programs, accelerated', ours)
    print_row('the same, spinning themselves', spinning)
    ratio('accelerated / raw', ours, raw)
    ratio('TCP / accelerated', tcp, ours)


def measure_streams(a, b, size, rounds):
    raw, tcp, ours = [], [], []
    for _ in range(rounds):
        raw.append(write_bandwidth(size))
        tcp.append(stream(a, b, size, False))
        ours.append(stream(a, b, size, True))
    print(f'\nstream of writes of {size} bytes, MB/s')
    raw = print_row('ib_write_bw -t 8', raw)
    tcp = print_row('TCP', tcp)
    ours = print_row('TCP programs, accelerated', ours)
    ratio('accelerated / raw', ours, raw)
    ratio('accelerated / TCP', ours, tcp)


def numbers(text):
    return [int(word) for word in text.split(',') if word]


def main():
    rounds, sizes, streams = int(sys.argv[1]), numbers(sys.argv[2]), numbers(sys.argv[3])
    roce.set_up()
    hosts.make_namespaces()
    with contextlib.ExitStack() as ended:
        a, b = [hosts.RemoteHost(name) for name in hosts.NAMES]
        ended.callback(b.close)
        ended.callback(a.close)
        for size in sizes:
            measure_round_trips(a, b, size, rounds)
        for size in streams:
            measure_streams(a, b, size, rounds)
        print(json.dumps({host.name: host.link() for host in (a, b)}))


main()
