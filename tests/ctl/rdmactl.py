"""Runs the rdmactl of the build that is tested."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get('RDMA_BUILD', 'build')

# Sanitizers slow programs down, and the machine may be busy.
PATIENCE = 30


class Ctl:
    """rdmactl with a runtime directory."""

    program = BUILD / 'rdmactl'

    def __init__(self, directory):
        self.directory = Path(directory)

    def environment(self, extra=None):
        """As little as possible, so that the tests do not depend on who runs them."""
        kept = {name: value for name, value in os.environ.items()
                if name in ('PATH', 'HOME', 'TMPDIR') or name.endswith('SAN_OPTIONS')}
        return {**kept, 'LC_ALL': 'C.UTF-8', 'RDMA_AGENT_DIR': str(self.directory), **(extra or {})}

    def start(self, *arguments, env=None, program=None, **options):
        """Starts rdmactl; a subprocess.Popen."""
        return subprocess.Popen([program or self.program, *map(str, arguments)], text=True, stdin=subprocess.DEVNULL,
                                env=self.environment(env),
                                **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options})

    def __call__(self, *arguments, **options):
        """Runs rdmactl to its end; a subprocess.CompletedProcess."""
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
