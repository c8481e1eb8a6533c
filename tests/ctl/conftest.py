"""Fixtures for the tests of rdmactl: the program itself, run against an agent that is not one (fake_agent.py)."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fake_agent import FakeAgent  # noqa: E402
from rdmactl import Ctl  # noqa: E402


@pytest.fixture
def runtime_dir():
    """A directory that every user can pass, with a name short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix='rdmactl-') as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def ctl(runtime_dir):
    """rdmactl where no agent is."""
    return Ctl(runtime_dir)


@pytest.fixture
def fake(runtime_dir):
    """An agent for `ctl` to talk to."""
    agent = FakeAgent(runtime_dir)
    yield agent
    agent.close()


@pytest.fixture(scope='session')
def compile_c():
    """Compiles a C text: compile_c(name, text, *options) returns the path, which every user can pass."""
    with tempfile.TemporaryDirectory(prefix='rdmactl-') as directory:
        os.chmod(directory, 0o755)

        def build(name, text, *options):
            path = Path(directory) / name
            subprocess.run(['gcc', '-x', 'c', '-', '-o', path, *options], input=text, text=True, check=True)
            return path

        yield build


@pytest.fixture(scope='session')
def library(compile_c):
    """A library that can be preloaded and does nothing."""
    return compile_c('librdma-preload.so', 'int rdma_preload_stub;', '-shared', '-fPIC')
