#!/usr/bin/python3
"""Boots a guest and measures in it what two hosts get from soft-RoCE: see inside/measure.py.

    tests/vm/measure.py [ROUNDS [SIZES [STREAMS]]]

SIZES are those of messages to and fro, STREAMS those of writes that are streamed, separated by commas. RDMA_BUILD names
the build, build/ by default. Takes about a minute for each round. The machine should have nothing else to do: the guest
has two CPUs, and what keeps them waiting is felt many times over.
"""

import os
import shlex
import sys
import tempfile
from pathlib import Path

import guest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get('RDMA_BUILD', 'build')
DEFAULTS = ['3', '64,4096', '16384,65536']


def main():
    words = sys.argv[1:] + DEFAULTS[len(sys.argv) - 1:]
    kernel = guest.Kernel(BUILD / 'vm')
    script = (f'cd {shlex.quote(str(ROOT))}\nexport RDMA_BUILD={shlex.quote(str(BUILD))}\n'
              f'/usr/bin/python3 tests/vm/inside/measure.py {shlex.join(words)}\n')
    with tempfile.TemporaryDirectory() as results, guest.Guest(kernel, results, script) as machine:
        status = machine.wait(60 + 150 * int(words[0]))
        print(machine.read('out'))
    return 0 if status == 0 else 1


if __name__ == '__main__':
    sys.exit(main())
