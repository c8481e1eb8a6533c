"""What needs real verbs: the cases of inside/, run by a pytest in a guest with soft-RoCE, all in one boot.

Each file and test of inside/ is a case here. Only where no guest can be had are they skipped, with the reason; never if
RDMA_NEED_GUEST is set, as it is where changes are checked.
"""

import os
import re
import shlex
import xml.etree.ElementTree
from pathlib import Path

import pytest

import guest
import harness

HERE = Path(__file__).resolve().parent
BUILD = harness.BUILD
BOOT_SECONDS = 60
CASES_SECONDS = 600

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BOOT_SECONDS + CASES_SECONDS + 30)]
if BUILD.name != 'build':
    pytestmark.append(pytest.mark.skip(reason='guests are too slow for a sanitizer'))


def cases():
    for file in sorted(HERE.glob('inside/in_*.py')):
        for name in re.findall(r'^def (test_\w+)', file.read_text(), re.MULTILINE):
            yield f'{file.stem}.{name}'


def script(results):
    command = [harness.PYTHON, '-m', 'pytest', '-c', harness.ROOT / 'tests/pytest.ini', '-o', 'python_files=in_*.py',
               '-v', '-p', 'no:cacheprovider', '--durations=12', '--junitxml', f'{guest.RESULTS}/report.xml',
               HERE / 'inside']
    if os.environ.get('RDMA_GUEST_CASES'):
        command += ['-k', os.environ['RDMA_GUEST_CASES']]
    return (f'cd {shlex.quote(str(harness.ROOT))}\nexport RDMA_BUILD={shlex.quote(str(BUILD))}\n'
            f'timeout -k 10 {CASES_SECONDS} {shlex.join(map(str, command))}\n')


def read_report(path):
    """Each case's name without parameters: what went wrong with it, or why it was skipped ('skipped: ...')."""
    report = {}
    for case in xml.etree.ElementTree.parse(path).iter('testcase'):
        name = '%s.%s' % (case.get('classname').rpartition('.')[2], case.get('name').partition('[')[0])
        said = report.setdefault(name, [])
        for kind in 'failure', 'error', 'skipped':
            for found in case.findall(kind):
                said.append('%s: %s\n%s' % (kind, found.get('message'), found.text or ''))
        said += [out.text for out in case.findall('system-out') if said]
    return report


def get_kernel():
    try:
        return guest.Kernel(BUILD / 'vm')
    except guest.Unavailable as reason:
        if os.environ.get('RDMA_NEED_GUEST'):
            pytest.fail(f'no guest: {reason}')
        pytest.skip(f'no guest: {reason}')


def boot(results):
    kernel = get_kernel()
    with guest.Guest(kernel, results, script(results)) as machine:
        status = machine.wait(BOOT_SECONDS + CASES_SECONDS)
        return status, machine.read('out'), machine.read('console')


@pytest.fixture(scope='module')
def report():
    results = BUILD / 'vm/results'
    guest.clear(results)
    status, out, console = boot(results)
    if not (results / 'report.xml').exists():
        pytest.fail('the guest came to no end (%s)\n%s\nits console:\n%s' % (status, out[-8000:], console[-4000:]))
    return read_report(results / 'report.xml')


@pytest.mark.parametrize('case', cases())
def test_in_guest(report, case):
    if case not in report:
        pytest.skip('left out by RDMA_GUEST_CASES')
    said = report[case]
    if said and all(text.startswith('skipped: ') for text in said):
        pytest.skip(said[0])
    assert not said, '\n'.join(said)
