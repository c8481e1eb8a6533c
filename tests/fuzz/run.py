#!/usr/bin/env python3
"""Runs the fuzzers: each for some seconds, from the inputs kept in tests/fuzz/corpus.

Builds them first, with clang, in build-fuzz/. Exit status 77 if clang or its runtime is missing. An input that broke
something is kept in build-fuzz/found, and named; `build-fuzz/fuzz/NAME FILE` does it again.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / 'build-fuzz'
CORPUS = ROOT / 'tests/fuzz/corpus'
FOUND = BUILD / 'found'

EXIT_SKIPPED = 77

# What is not allowed to an input: seconds, MB.
SLOWEST = 10
MEMORY = 2048


def fuzzers():
    return sorted(source.stem for source in (ROOT / 'tests/fuzz').glob('*.c') if not source.with_suffix('.h').exists())


def missing():
    """What keeps fuzzers from being built here, or None."""
    if not shutil.which('clang'):
        return 'clang is not installed'
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / 'probe.c'
        source.write_text('int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { return d && n > 99; }')
        probe = subprocess.run(['clang', '-fsanitize=fuzzer,address,undefined', source, '-o', Path(scratch) / 'probe'],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return 'clang cannot link fuzzers (libclang-rt-dev?):\n' + probe.stdout if probe.returncode else None


def build():
    return subprocess.call(['scons', '-j%d' % (os.cpu_count() or 1), 'sanitize=fuzzer'], cwd=ROOT) == 0


def run(name, seconds, keep):
    """Returns whether it passed."""
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    FOUND.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as fresh:
        command = [BUILD / 'fuzz' / name, fresh, kept, '-max_total_time=%d' % seconds, '-timeout=%d' % SLOWEST,
                   '-rss_limit_mb=%d' % MEMORY, '-print_final_stats=1', '-artifact_prefix=%s/%s-' % (FOUND, name)]
        words = ROOT / 'tests/fuzz' / (name + '.dict')
        if words.exists():
            command.append('-dict=%s' % words)
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                                timeout=seconds + 120)
        if keep and result.returncode == 0:
            subprocess.run([BUILD / 'fuzz' / name, '-merge=1', kept, fresh], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    if result.returncode:
        print(result.stdout[-20000:])
        print('%s: FAILED; inputs that broke something are in %s' % (name, FOUND))
        return False
    done = re.search(r'number_of_executed_units: (\d+)', result.stdout)
    covered = re.findall(r'cov: (\d+)', result.stdout)
    print('%s: %s inputs, %s places of the code reached' % (name, done.group(1) if done else '?',
                                                            covered[-1] if covered else '?'))
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=int, default=60, help='for each fuzzer [60]')
    parser.add_argument('--keep', action='store_true', help='add the inputs that reached something new to the corpus')
    parser.add_argument('--no-build', action='store_true', help='run what was built before')
    parser.add_argument('names', nargs='*', help='of fuzzers: %s [all]' % ', '.join(fuzzers()))
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(fuzzers())
    if unknown:
        parser.error('no fuzzer %s; there are %s' % (', '.join(sorted(unknown)), ', '.join(fuzzers())))
    lack = missing()
    if lack:
        print('skipped: %s' % lack)
        return EXIT_SKIPPED
    if not arguments.no_build and not build():
        return 1
    results = [run(name, arguments.seconds, arguments.keep) for name in arguments.names or fuzzers()]
    return 0 if all(results) else 1


if __name__ == '__main__':
    sys.exit(main())
