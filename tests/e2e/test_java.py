"""Java: blocking streams, channels with a selector, and sockets closed under a blocked thread."""

import shutil
import subprocess

import pytest

from harness import PROGRAMS

pytestmark = pytest.mark.skipif(not (shutil.which('java') and shutil.which('javac')), reason='no Java compiler installed')


@pytest.fixture(scope='module')
def classes(tmp_path_factory):
    directory = tmp_path_factory.mktemp('classes')
    subprocess.run(['javac', '-d', directory, PROGRAMS / 'Echo.java'], check=True)
    return directory


@pytest.mark.parametrize('scenario', ['streams', 'channels', 'closing'])
def test_sockets(agent, classes, scenario):
    assert agent.run(['java', '-Xshare:auto', '-Xmx512m', '-cp', classes, 'Echo', scenario]).out == 'ok\n'
    agent.expect_ring(1000 if scenario == 'closing' else 10_000_000)
