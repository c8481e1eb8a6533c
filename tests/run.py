#!/usr/bin/env python3
"""Runs the tests and sums them up in one last line: N passed, N failed[, N skipped].

Without options: the unit tests and the Python tests of the variant that RDMA_BUILD names (build/ by default), which
must have been built. With --all: builds, checks the tree, and tests every variant; --fast leaves out the sanitizers.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree
from pathlib import Path

import check_tree

ROOT = Path(__file__).resolve().parent.parent

# Seconds. The first is for everything; what does not fit in it fails. On two quiet CPUs all of it takes half of that, or
# less: these are for what hangs, and leave a slow machine its time.
TIME_ALL = 60 * 60
TIME_BUILD = 8 * 60
TIME_CHECK = 2 * 60
TIME_UNIT = 5 * 60
TIME_PYTEST = 25 * 60
TIME_GUESTS = 15 * 60
TIME_FUZZ = 8 * 60

# Of each fuzzer, in seconds. More by command: tests/fuzz/run.py.
FUZZ_SECONDS = 10

# A program's way to say that it cannot be run here.
EXIT_SKIPPED = 77

# What a sanitizer finds ends the program that did it, so that no test passes over it.
SANITIZER_OPTIONS = {
    'ASAN_OPTIONS': 'abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1',
    'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1',
    'TSAN_OPTIONS': 'halt_on_error=1:second_deadlock_stack=1',
}


class Results:
    """Passed, failed and skipped test cases of all the steps."""

    def __init__(self):
        self.passed = 0
        self.skipped = 0
        self.failures = []

    def record(self, name, passed, failures=(), skipped=0):
        """Adds one step's cases. A failure is a name, or '' for the step itself."""
        self.passed += passed
        self.skipped += skipped
        self.failures += [': '.join(filter(None, (name, failure))) for failure in failures]

    def summary(self):
        text = '%d passed, %d failed' % (self.passed, len(self.failures))
        return text + (', %d skipped' % self.skipped if self.skipped else '')


class Runner:
    """Runs programs one after the other, each within its own time and the time left for all of them."""

    def __init__(self, seconds):
        self.deadline = time.monotonic() + seconds
        self.results = Results()

    def run(self, name, command, seconds, environment=None):
        """Shows the output of a command as it comes. Returns its exit status (None: out of time) and its output."""
        seconds = min(seconds, self.deadline - time.monotonic())
        print('\n=== %s: %s' % (name, ' '.join(map(str, command))), flush=True)
        if seconds <= 0:
            print('=== %s: no time left' % name, flush=True)
            return None, ''
        try:
            process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, **(environment or {})),
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       start_new_session=True, text=True, errors='replace')
        except OSError as error:
            print('=== %s: %s' % (name, error), flush=True)
            return 127, ''
        return self._follow(name, process, seconds)

    @staticmethod
    def _follow(name, process, seconds):
        output, begin = [], time.monotonic()

        def show():
            for line in process.stdout:
                output.append(line)
                sys.stdout.write(line)
                sys.stdout.flush()

        # Its own thread, since a child that outlives the command may keep the pipe open.
        reader = threading.Thread(target=show, daemon=True)
        reader.start()
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        except BaseException:
            end_group(process)
            raise
        if status is None:
            print('=== %s: did not end within %d s' % (name, seconds), flush=True)
            end_group(process)
        reader.join(5)
        print('=== %s: %.1f s' % (name, time.monotonic() - begin), flush=True)
        return status, ''.join(output)

    def check(self, name, command, seconds):
        """A step that counts as one case. Returns whether it passed."""
        status, _ = self.run(name, command, seconds)
        self.results.record(name, int(status == 0), [''] if status != 0 else [])
        return status == 0

    def unit(self, name, program, environment, prefix=(), arguments=()):
        """A test program of ours: cmocka's counts, or one case."""
        status, output = self.run(name, [*prefix, program, *arguments], TIME_UNIT, environment)
        passed = sum(map(int, re.findall(r'\[  PASSED  \] (\d+) test', output)))
        skipped = sum(map(int, re.findall(r'\[  SKIPPED \] (\d+) test', output)))
        failures = re.findall(r'^\[  FAILED  \] (?!\d+ test\(s\))(\S+)$', output, re.MULTILINE)
        failures = list(dict.fromkeys(failures))        # cmocka names each twice
        if status == EXIT_SKIPPED and not failures:
            skipped += 1
        elif status == 0 and passed == 0 and skipped == 0:
            passed = 1
        elif status != 0 and not failures:
            failures = [how_it_ended(status)]
        self.results.record(name, passed, failures, skipped)

    def fuzz(self):
        """Each fuzzer for a short time: a case each. It builds them itself, in a variant of their own."""
        status, output = self.run('fuzz', [sys.executable, 'tests/fuzz/run.py', '--seconds', str(FUZZ_SECONDS)],
                                  TIME_FUZZ)
        failures = re.findall(r'^(\w+): FAILED', output, re.MULTILINE)
        if status not in (0, EXIT_SKIPPED) and not failures:
            failures = [how_it_ended(status)]
        self.results.record('fuzz', len(re.findall(r'^\w+: .* inputs, ', output, re.MULTILINE)), failures,
                            int(status == EXIT_SKIPPED))

    def pytest(self, name, variant, tests, prefix=(), seconds=TIME_PYTEST):
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch) / 'report.xml'
            command = [*prefix, sys.executable, '-m', 'pytest', '-v', '--durations=25', '--junitxml', report, *tests]
            status, _ = self.run(name, command, seconds, environment_of(variant))
            passed, failures, skipped = read_junit(report)
        if status != 0 and not failures:
            failures = [how_it_ended(status)]
        self.results.record(name, passed, failures, skipped)


def end_group(process):
    """Ends a command and what it started: it leads a process group of its own. pytest cleans up at a SIGINT."""
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGKILL:
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            pass


def how_it_ended(status):
    if status is None:
        return 'out of time'
    if status < 0:
        return 'killed by signal %d' % -status
    return 'exit status %d' % status


def read_junit(path):
    """Passed count, names of what failed, skipped count. All of nothing for a report that was never written."""
    passed, failures, skipped = 0, [], 0
    if not path.exists():
        return passed, failures, skipped
    for case in xml.etree.ElementTree.parse(path).iter('testcase'):
        if case.find('failure') is not None or case.find('error') is not None:
            failures.append('.'.join(filter(None, (case.get('classname'), case.get('name')))))
        elif case.find('skipped') is not None:
            skipped += 1
        else:
            passed += 1
    return passed, list(dict.fromkeys(failures)), skipped


def environment_of(variant):
    return dict(SANITIZER_OPTIONS, RDMA_BUILD=str(variant))


def without_randomization():
    """Command prefix for thread sanitizers that cannot cope with much randomized addresses; () where it is refused."""
    prefix = ('setarch', '-R')
    try:
        allowed = subprocess.call([*prefix, 'true'], stderr=subprocess.DEVNULL) == 0
    except OSError:
        allowed = False
    return prefix if allowed else ()


# What would tell sanitizers nothing new, for the time it takes: figures, examples, and two of the six ways to wait where
# all are tried under faults.
LEFT_OUT_OF_SANITIZERS = ['--ignore=tests/vm', '--ignore=tests/bench', '--ignore=tests/test_examples.py',
                          '-k', 'not (under_load and (select or oneshot))']

# What a thread sanitizer is asked about: the agents, and the library in a program of many threads.
THREADED = ('tests/sim/test_links.py', 'tests/sim/test_hostile_peer.py', 'tests/e2e/test_exact.py::test_threads')


def test_variant(runner, variant, only=()):
    """Unit tests whose names begin with one of `only`; all of them, and the Python tests, if there are none."""
    prefix = without_randomization() if variant.name.endswith('tsan') else ()
    for source in sorted((ROOT / 'tests/unit').glob('*.c')):
        if source.with_suffix('.h').exists():
            continue    # not a program: see tests/SConscript
        if only and not source.stem.startswith(only):
            continue
        runner.unit('%s %s' % (variant.name, source.stem), variant / 'tests' / source.stem, environment_of(variant),
                    prefix)
    fabric = variant / 'tests/fabric/sim'
    if fabric.exists():
        runner.unit('%s fabric' % variant.name, fabric, dict(environment_of(variant), FABRIC_RECONNECTS='100'), prefix,
                    ['127.0.0.1'])
    if not only and any((ROOT / 'tests').rglob('test_*.py')):
        left_out = ['--ignore=tests/vm'] if variant.name == 'build' else LEFT_OUT_OF_SANITIZERS
        runner.pytest('%s pytest' % variant.name, variant, ['tests', *left_out])
        if variant.name == 'build':
            runner.pytest('guests', variant, ['tests/vm'], seconds=TIME_GUESTS)
    elif only:
        runner.pytest('%s pytest' % variant.name, variant, THREADED, prefix)


def build(runner, *options):
    return runner.check(' '.join(('build',) + options), ['scons', '-j%d' % (os.cpu_count() or 1), *options], TIME_BUILD)


def test_all(runner, fast, werror):
    options = ['werror=1'] if werror else []
    built = build(runner, *options)
    runner.check('format', ['clang-format', '--dry-run', '-Werror', *map(str, check_tree.sources())], TIME_CHECK)
    runner.check('tree', [sys.executable, 'tests/check_tree.py'], TIME_CHECK)
    if built:
        test_variant(runner, ROOT / 'build')
    if fast:
        return
    runner.fuzz()
    # Address and undefined behaviour in one build: two runs of everything would find no more.
    for sanitizer, variant, only in (('thread', 'build-tsan', ('ring', 'agent_path', 'agent_data_thread')),
                                     ('address,undefined', 'build-asan-ubsan', ())):
        if build(runner, 'sanitize=' + sanitizer, *options):
            test_variant(runner, ROOT / variant, only)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--all', action='store_true', help='build and test every variant')
    parser.add_argument('--fast', action='store_true', help='with --all: only the default variant')
    parser.add_argument('--werror', action='store_true', help='with --all: warnings are errors')
    arguments = parser.parse_args()

    runner = Runner(TIME_ALL)
    begin = time.monotonic()
    if arguments.all:
        os.environ.pop('RDMA_BUILD', None)      # each variant has its own
        test_all(runner, arguments.fast, arguments.werror)
    else:
        test_variant(runner, Path(os.environ.get('RDMA_BUILD', ROOT / 'build')))

    print('\n=== done in %d s' % (time.monotonic() - begin))
    for failure in runner.results.failures:
        print('FAILED %s' % failure)
    print(runner.results.summary())
    return 1 if runner.results.failures else 0


if __name__ == '__main__':
    sys.exit(main())
