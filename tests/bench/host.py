"""What the benchmark stands on: a directory of its own, agents, and programs started on given CPUs, with or without the
library. Whatever it starts it ends, by its id.
"""

import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

# The configurations that cases ask for by name.
CONFIGURATIONS = {
    'default': {},
    'eager': {'upgrade': {'after_calls': 1, 'after_bytes': 1}},
    'never': {'upgrade': {'ports': {'deny': ['1-65535']}}},
    'mortal': {},       # the one that is killed
}

PATIENCE = 20.0     # seconds that something may take that takes milliseconds
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """A measurement that could not be made, and why."""


class Unavailable(Exception):
    """A case that cannot be run here, and what is missing."""


def read_object(process, name):
    """The next line of JSON that the process says; `name` is what it is called if it says no more."""
    line = process.stdout.readline()
    if not line:
        raise Failure('%s ended early' % name)
    return json.loads(line)


def wait_until(condition, what, process=None, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        if process and process.poll() is not None:
            raise Failure('%s: it ended with status %d' % (what, process.returncode))
        if time.monotonic() > deadline:
            raise Failure('%s: not within %g s' % (what, seconds))
        time.sleep(0.01)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def answers(address):
    """Whether something accepts connections at (host, port) or at the path of a Unix socket."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.connect(address)
        return True
    return False


def find_program(name, package, *more_places):
    """The path of an installed program. Unavailable says which Debian package has it."""
    path = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin', '/sbin', *map(str, more_places)])
    found = shutil.which(name, path=path)
    if not found:
        raise Unavailable('%s is not installed (apt-get install %s)' % (name, package))
    return found


def unprivileged_user(*names):
    """The first of these users that exists, for programs that refuse to run as root; None if we are not root."""
    if os.geteuid() != 0:
        return None
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Unavailable('none of the users %s exists' % ', '.join(names))


class Agent:
    """One agent with its own runtime directory."""

    def __init__(self, host, name):
        self.host = host
        self.directory = host.home / ('agent-' + name)
        config = host.home / ('agent-%s.json' % name)
        config.write_text(json.dumps(CONFIGURATIONS[name]))
        self.command = [host.build / 'rdma-agent', '--config', config, '--runtime-dir', self.directory]
        self.log = 'agent-' + name
        self.start()

    def start(self):
        self.process = self.host.spawn(self.command, log=self.log)
        try:
            wait_until(lambda: answers(str(self.directory / 'control.sock')), 'start the agent', self.process)
        except Failure as failure:
            raise Failure('%s\n%s' % (failure, self.host.log_text(self.log))) from None

    def kill(self):
        self.process.kill()
        self.host.end(self.process)

    def pause(self, seconds):
        """It hangs for so long."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def stats(self):
        command = [self.host.build / 'rdmactl', '--runtime-dir', self.directory, 'stats', '--json']
        return json.loads(self.host.run(command, timeout=10))

    def counters(self):
        """Bytes sent through rings and sessions made, since the agent began."""
        stats = self.stats()
        return stats['bytes']['tx'], stats['sessions']['total']

    def cpu_ms(self):
        """CPU time of all threads of the agent so far."""
        total = 0
        for task in Path('/proc/%d/task' % self.process.pid).iterdir():
            total += int((task / 'schedstat').read_text().split()[0])
        return total / 1e6


class Host:
    def __init__(self, build, cpus):
        self.build = Path(build).resolve()
        self.near, self.far = cpus      # a server's CPU and its client's
        self.home = Path(tempfile.mkdtemp(prefix='rdma-bench-'))
        self.home.chmod(0o755)          # other users' programs must reach the agents' sockets and the library
        self.processes = []
        self.agents = {}
        self.library = None
        built = self.build / 'librdma-preload.so'
        if built.exists() and (self.build / 'rdma-agent').exists() and (self.build / 'rdmactl').exists():
            self.library = self.home / built.name   # the build may lie below a private home
            shutil.copy(built, self.library)

    # ---- programs

    def program(self, name):
        """One of our measuring programs."""
        path = self.build / 'bench' / name
        if not path.exists():
            raise Unavailable('%s is missing: run scons first' % path)
        return path

    def agent(self, name='default'):
        if name not in self.agents:
            self.agents[name] = Agent(self, name)
        return self.agents[name]

    def environment(self, agent):
        """With `agent`, the name of a configuration: under the library."""
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(('RDMA_', 'LD_PRELOAD', 'PG'))}
        environment['LC_ALL'] = 'C'
        if agent:
            environment.update(LD_PRELOAD=str(self.library), RDMA_AGENT_DIR=str(self.agent(agent).directory))
        return environment

    def spawn(self, command, cpus=None, agent=None, user=None, log=None, stdout=None):
        """Starts a program and goes on. Its output goes to a log of that name unless `stdout` says otherwise."""
        environment = self.environment(agent)

        def prepare():
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if cpus:
                os.sched_setaffinity(0, cpus)

        identity = dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[]) if user else {}
        log = log or Path(str(command[0])).name
        with open(self.home / (log + '.log'), 'ab') as output:
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                       stdout=stdout or output, stderr=output, env=environment, cwd=self.home,
                                       process_group=0, preexec_fn=prepare, **identity)
        process.log = log
        self.processes.append(process)
        return process

    def log_text(self, log, limit=2000):
        path = self.home / (log + '.log')
        return path.read_text(errors='replace')[-limit:].strip() if path.exists() else ''

    def run(self, command, timeout, **more):
        """Runs a program to its end and returns what it printed."""
        process = self.spawn(command, stdout=subprocess.PIPE, **more)
        try:
            output = process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            raise Failure('%s: still running after %g s' % (process.log, timeout)) from None
        finally:
            self.end(process)
        if process.returncode != 0:
            said = (self.log_text(process.log) or '-').splitlines()[-1]
            raise Failure('%s ended with status %d: %s' % (process.log, process.returncode, said))
        return output.decode(errors='replace')

    def measure(self, name, timeout, agent=None, **parameters):
        """Runs one of our measuring programs and returns the object that it printed."""
        command = [self.program(name)] + ['%s=%s' % item for item in parameters.items()]
        return json.loads(self.run(command, timeout=timeout, agent=agent))

    @contextlib.contextmanager
    def serving(self, command, address, **more):
        """A server for as long as the context lasts, from the moment that it answers at `address`."""
        process = self.spawn(command, **more)
        try:
            wait_until(lambda: answers(address), 'start %s' % process.log, process)
            yield process
        except Failure as failure:
            raise Failure('%s\n%s' % (failure, self.log_text(process.log))) from None
        finally:
            self.end(process)

    @contextlib.contextmanager
    def never_halting(self):
        """A spinner at the lowest priority on both CPUs."""
        process = self.spawn([self.program('spinner'), 'cpus=%d,%d' % (self.near, self.far)], stdout=subprocess.PIPE)
        try:
            if not process.stdout.readline():
                raise Failure('the spinner did not start: %s' % self.log_text('spinner'))
            yield
        finally:
            self.end(process)

    def end(self, process):
        """Ends a program, and whatever is left of its process group."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()
        self.processes.remove(process)

    def close(self):
        for process in reversed(list(self.processes)):
            self.end(process)
        shutil.rmtree(self.home, ignore_errors=True)
