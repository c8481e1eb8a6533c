"""What the end-to-end tests stand on: an agent in a directory of its own, and programs started under the library.

A `Host` owns one directory, at most one agent, and every process that a test starts. It ends them all by their ids,
however the test ended, and then judges what they left behind: sanitizer reports, sessions that outlive their programs,
an agent that did not exit cleanly. In plain mode (`--plain`) there is neither agent nor library: the same programs talk
over the kernel's TCP, which shows whether the tests themselves are right.
"""

import atexit
import contextlib
import functools
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get('RDMA_BUILD', 'build')
PROGRAMS = Path(__file__).resolve().parent / 'programs'
PYTHON = '/usr/bin/python3' if os.path.exists('/usr/bin/python3') else 'python3'

LIBRARY = BUILD / 'librdma-preload.so'
DAEMON = BUILD / 'rdma-agent'
RDMACTL = BUILD / 'rdmactl'

# Short programs are to be upgraded too.
EAGER = {'upgrade': {'after_calls': 2}}

# A program that waits longer than this for something that takes milliseconds has failed. Sanitizers slow it down.
PATIENCE = 20.0

open_hosts = []


def built_program(name):
    """The path of the C test program `name`."""
    path = BUILD / 'tests' / 'e2e' / 'bin' / name
    assert path.exists(), f'{path} is missing: run scons first'
    return path


def wait_until(condition, what, timeout=PATIENCE, every=0.01):
    """Calls `condition` until it returns something true, and returns that. Fails naming `what` after `timeout`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f'waited {timeout:g} s in vain until {what}'
        time.sleep(every)


def listening(port):
    """Whether something listens on a TCP port. It is read from the kernel: a probing connection would be accepted."""
    wanted = f'{port:04X}'
    for table in ('/proc/net/tcp', '/proc/net/tcp6'):
        with contextlib.suppress(FileNotFoundError), open(table) as lines:
            for line in lines:
                fields = line.split()
                if fields[3] == '0A' and fields[1].endswith(':' + wanted):
                    return True
    return False


_given_ports = set()


def free_port():
    """A TCP port that is free on IPv4 and IPv6, below the range that the kernel gives to connecting sockets."""
    while True:
        port = random.randint(15000, 32000)
        if port in _given_ports or listening(port):
            continue
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                probe.bind(('::', port))
        except OSError:
            continue
        _given_ports.add(port)
        return port


def is_root():
    return os.geteuid() == 0


def user_exists(name):
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def as_user(name):
    """The command that runs the command after it as another user; root only."""
    entry = pwd.getpwnam(name)
    return ['setpriv', f'--reuid={entry.pw_uid}', f'--regid={entry.pw_gid}', '--init-groups', '--']


def runs_for(user):
    """Whether programs of this tree can be run as another user: who must exist, and reach the files."""
    if not is_root() or not user_exists(user):
        return False
    reach = subprocess.run(as_user(user) + ['test', '-r', PROGRAMS, '-a', '-x', PROGRAMS], check=False)
    return reach.returncode == 0


def _library_needs():
    """The sanitizers that the library was built with, by the names of their runtimes."""
    image = LIBRARY.read_bytes()
    return [runtime for runtime, symbol in (('libasan.so', b'__asan_init'), ('libubsan.so', b'__ubsan_handle'),
                                            ('libtsan.so', b'__tsan_init')) if symbol in image]


def _runtime(name):
    """Where the compiler keeps a sanitizer's runtime."""
    path = subprocess.run(['gcc', '-print-file-name=' + name], check=True, capture_output=True, text=True).stdout
    return os.path.realpath(path.strip())


EARLY_START = '''
#include <stdlib.h>
__attribute__((constructor)) static void start(void)
{
    void *volatile something = malloc(1);
    free(something);
}
'''


@functools.cache
def _early_start():
    """A library that makes a preloaded libasan start before all other libraries.

    Otherwise it starts with the first allocation, which in programs with libp11-kit (curl, psql, postgres) is made under
    a lock of glibc's that the start of libasan takes again and then releases: they hang for ever.
    """
    directory = tempfile.mkdtemp(prefix='rdma-e2e-')
    atexit.register(shutil.rmtree, directory)
    os.chmod(directory, 0o755)
    path = os.path.join(directory, 'early-start.so')
    command = ['gcc', '-shared', '-fPIC', '-Wl,-z,initfirst', '-o', path, '-x', 'c', '-']
    subprocess.run(command, check=True, text=True, input=EARLY_START)
    return path


def preload_of(library):
    """What LD_PRELOAD must name for a program to run under the library at this place.

    A sanitizer's runtime comes before it, but libtsan after it. Otherwise libtsan's own poll, select and epoll_wait would
    call the library's. As long as they last it takes no notice of locks and atomics, but of all other accesses, and so
    finds races where there are none.
    """
    needed = _library_needs()
    above = [runtime for runtime in needed if runtime != 'libtsan.so']
    below = [runtime for runtime in needed if runtime == 'libtsan.so']
    early = [_early_start()] if 'libasan.so' in needed else []
    return ':'.join([*map(_runtime, above), str(library), *map(_runtime, below), *early])


# For programs that are not built with the sanitizer that comes with the library; and Java handles SIGSEGV itself.
ASAN_UNDER_LIBRARY = 'detect_leaks=0:verify_asan_link_order=0:handle_segv=0'


class Result:
    """How a program ended, and what it said."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def __repr__(self):
        return f'{self.command}: exit {self.code}\n--- stdout\n{_tail(self.out)}\n--- stderr\n{_tail(self.err)}'


def _tail(text, limit=4000):
    return text if len(text) <= limit else '[...]\n' + text[-limit:]


class Program:
    """A process that a test started. Its output goes to files, so that it never blocks on a full pipe."""

    def __init__(self, host, command, name, environment, cwd, stdin):
        self.host, self.name, self.command = host, name, ' '.join(map(str, command))
        self.out_path, self.err_path = host.home / f'{name}.out', host.home / f'{name}.err'
        with open(self.out_path, 'wb') as out, open(self.err_path, 'wb') as err:
            self.popen = subprocess.Popen([str(word) for word in command], stdin=stdin, stdout=out, stderr=err,
                                          env=environment, cwd=cwd or host.home, start_new_session=True)
        self.pid = self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def out(self):
        return self.out_path.read_text(errors='replace')

    def err(self):
        return self.err_path.read_text(errors='replace')

    def result(self):
        return Result(self.command, self.popen.returncode, self.out(), self.err())

    def wait(self, timeout=PATIENCE, check=True):
        """Waits for the end of the program. With `check`, anything but exit code 0 fails."""
        try:
            self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            where = self.host.explain()
            self.kill()
            raise AssertionError(f'still running after {timeout:g} s: {self.result()}\n--- where\n{where}') from None
        result = self.result()
        assert not check or result.code == 0, repr(result)
        return result

    def send(self, number):
        if self.running():
            self.popen.send_signal(number)

    def stop(self, number=signal.SIGTERM, timeout=PATIENCE):
        """Asks the program to end, waits, and returns its result."""
        self.send(number)
        return self.wait(timeout, check=False)

    def forget(self):
        """One of many that ended well: nothing is kept of it."""
        self.host.programs.remove(self)
        self.out_path.unlink()
        self.err_path.unlink()

    def kill(self):
        """Ends the program and whatever still is in its process group."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()


class Host:
    """One directory, one agent, the programs of one test."""

    program = DAEMON
    enter = ()      # the command that runs another one where this host is

    def __init__(self, plain, config=None):
        self.plain = plain
        self.home = Path(tempfile.mkdtemp(prefix='rdma-e2e-'))
        self.home.chmod(0o755)      # other users' programs must reach the agent's sockets and the library
        self.runtime = self.home / 'run'
        self.config_path = self.home / 'agent.json'
        self.programs, self.counter = [], 0
        self.expected_complaints = []       # what errors of the agent a test has caused on purpose
        self.hostile_clients = False        # a test has had the agent count protocol errors
        self.daemon = None
        self.reports = self.home / 'sanitizer'
        self.reports.mkdir()
        self.reports.chmod(0o1777)
        self.preload, self.sanitized = None, []
        open_hosts.append(self)
        if not plain:
            self._place_library()
            self.write_config(EAGER if config is None else config)
            self.start_agent()

    # The agent.

    def _place_library(self):
        """Copies the library to where every user can read it: the build directory may be below a private home."""
        for path in (LIBRARY, self.program):
            assert path.exists(), f'{path} is missing: run scons first (or give --plain)'
        self.sanitized = _library_needs()
        shutil.copy(LIBRARY, self.home / LIBRARY.name)
        self.preload = preload_of(self.home / LIBRARY.name)

    def write_config(self, config):
        self.config_path.write_text(json.dumps(config, indent=4))

    def start_agent(self, user=None):
        """Starts the agent, anew if it was killed, and waits until it answers. Does nothing in plain mode."""
        if self.plain:
            return
        self.daemon = self.spawn([self.program, '--config', self.config_path, '--runtime-dir', self.runtime],
                                 accelerated=False, name='agent', user=user)
        wait_until(self._agent_answers, 'the agent answers')

    def _agent_answers(self):
        assert self.daemon.running(), repr(self.daemon.result())
        with contextlib.suppress(OSError):
            return self.call('stats')['agent']['pid'] == self.daemon.pid
        return False

    def kill_agent(self):
        """kill -9, as a test of what goes on without it."""
        if self.daemon:
            self.daemon.kill()
            self.daemon = None

    def signal_agent(self, number):
        if self.daemon:
            self.daemon.send(number)

    def stop_agent(self):
        """Ends the agent as an operator would, and checks that it left nothing to complain about."""
        if not self.daemon:
            return
        daemon, self.daemon = self.daemon, None
        alive = daemon.running()
        result = daemon.stop()
        assert alive, f'the agent ended by itself: {result}'
        assert result.code == 0, f'the agent did not exit cleanly: {result}'
        complaints = [line for line in result.err.splitlines() if 'error' in line.lower()
                      and not any(expected in line for expected in self.expected_complaints)]
        assert not complaints, f'the agent complained: {result}'

    def call(self, method, **parameters):
        """One JSON-RPC request to the agent; its result. Fails on an error answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.settimeout(PATIENCE)
            control.connect(str(self.runtime / 'control.sock'))
            request = {'jsonrpc': '2.0', 'id': 1, 'method': method, 'params': parameters}
            control.sendall(json.dumps(request).encode() + b'\n')
            with control.makefile('rb') as answers:
                answer = json.loads(answers.readline())
        assert 'result' in answer, f'{method}: {answer}'
        return answer['result']

    def stats(self):
        return self.call('stats')

    def sessions(self):
        """The rows of `rdmactl list` that are sessions; none in plain mode."""
        if self.plain:
            return []
        return [row for row in self.call('list')['sessions'] if row['transport'] != 'tcp']

    def rings(self):
        """The sessions of which both directions are in the ring."""
        return [row for row in self.sessions() if row['tx_way'] == 'ring' and row['rx_way'] == 'ring']

    def ring_bytes(self):
        """Bytes that were received through rings since the agent began; 0 in plain mode."""
        return 0 if self.plain else self.stats()['bytes']['rx']

    def expect_ring(self, at_least=1, since=0):
        """Fails unless `at_least` bytes went through rings since ring_bytes() was `since`. Holds in plain mode."""
        if self.plain:
            return
        deadline = time.monotonic() + 2
        while (seen := self.ring_bytes() - since) < at_least and time.monotonic() < deadline:
            time.sleep(0.02)
        assert seen >= at_least, f'{seen} bytes went through rings instead of {at_least}; stats: {self.stats()}'

    def expect_no_ring(self, since=0):
        """Fails if any byte went through a ring since ring_bytes() was `since`."""
        if not self.plain:
            assert self.ring_bytes() == since, f'a ring was used; stats: {self.stats()}'

    # Programs.

    def environment(self, accelerated=True, **more):
        """The environment of a program, with or without the library."""
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(('RDMA_', 'LD_PRELOAD', 'PG'))}
        environment.update(LC_ALL='C.UTF-8', RDMA_E2E_HOME=str(self.home))
        common = f'log_path={self.reports}/report:'
        environment['ASAN_OPTIONS'] = common + (ASAN_UNDER_LIBRARY if accelerated else 'detect_leaks=1')
        environment['UBSAN_OPTIONS'] = common + 'print_stacktrace=1'
        environment['TSAN_OPTIONS'] = common
        if accelerated and not self.plain:
            environment.update(LD_PRELOAD=self.preload, RDMA_AGENT_DIR=str(self.runtime))
        environment.update({name: str(value) for name, value in more.items()})
        return environment

    def spawn(self, command, accelerated=True, name=None, user=None, env=None, cwd=None, stdin=subprocess.DEVNULL):
        """Starts a program and goes on; it is ended with the host at the latest. Returns a Program."""
        self.counter += 1
        name = f'{self.counter:02d}-{name or Path(str(command[0])).name}'
        if user and is_root():
            command = as_user(user) + list(command)
        command = [*self.enter, *command]
        program = Program(self, command, name, self.environment(accelerated, **(env or {})), cwd, stdin)
        self.programs.append(program)
        return program

    def run(self, command, accelerated=True, input=None, timeout=60, check=True, **more):
        """Runs a program to its end. Returns a Result; with `check`, anything but exit code 0 fails."""
        if input is None:
            return self.spawn(command, accelerated, **more).wait(timeout, check)
        given = self.home / f'{self.counter + 1:02d}.in'
        given.write_bytes(input.encode() if isinstance(input, str) else input)
        with open(given, 'rb') as stdin:
            return self.spawn(command, accelerated, stdin=stdin, **more).wait(timeout, check)

    def python(self, script, *arguments, **more):
        """Runs one of the Python programs of this folder."""
        return self.run(self.python_command(script, *arguments), **more)

    @staticmethod
    def python_command(script, *arguments):
        return [PYTHON, PROGRAMS / script, *arguments]

    def serve(self, command, port, **more):
        """Starts a server and waits until it listens on `port`. Returns a Program."""
        server = self.spawn(command, **more)
        self.wait_for_port(port, server)
        return server

    def wait_for_port(self, port, server=None):
        def ready():
            assert not server or server.running(), repr(server.result())
            return self.listening(port)

        wait_until(ready, f'something listens on port {port}')

    def listening(self, port):
        return listening(port)

    def explain(self):
        """Where every thread of the host's programs is, and what the agent knows: for a test that hangs."""
        lines = []
        for pid in self._own_processes():
            for task in sorted(Path(f'/proc/{pid}/task').glob('*')):
                with contextlib.suppress(OSError):
                    words = (task / 'comm').read_text().strip(), (task / 'wchan').read_text(), \
                        (task / 'syscall').read_text().strip()
                    lines.append(f'{pid}/{task.name}: ' + ' '.join(words))
        if self.daemon and self.daemon.running():
            with contextlib.suppress(OSError, AssertionError, ValueError):
                lines += [json.dumps(row) for row in self.call('list')['sessions']]
                lines.append(json.dumps(self.stats()))
        return '\n'.join(lines)

    # The end.

    def _own_processes(self):
        """Every process that carries this host's mark in its environment, however it was started."""
        mark = f'RDMA_E2E_HOME={self.home}'.encode()
        for entry in Path('/proc').iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / 'environ').read_bytes().split(b'\0'):
                        yield int(entry.name)

    def end_programs(self):
        """Ends all but the agent: politely, then not."""
        others = [program for program in reversed(self.programs) if program is not self.daemon]
        for program in others:
            program.send(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for program in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.popen.wait(max(0.0, deadline - time.monotonic()))
            program.kill()
        self._end_strays()

    def _end_strays(self):
        """Ends what the programs left running, such as a server's children."""
        for pid in self._own_processes():
            if not self.daemon or pid != self.daemon.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def judge(self):
        """What must be true once all programs have ended."""
        try:
            if self.daemon and self.daemon.running():
                self.signal_agent(signal.SIGCONT)
                wait_until(lambda: not self.sessions(), 'no session is left of the ended programs', timeout=5)
                assert self.hostile_clients or self.stats()['protocol_errors'] == 0, \
                    f'the agent counted protocol errors: {self.stats()}'
            self.stop_agent()
        finally:
            if self.daemon:
                self.kill_agent()
            self._end_strays()
        reports = [path.read_text(errors='replace') for path in sorted(self.reports.iterdir())]
        assert not reports, 'sanitizer reports:\n' + '\n'.join(map(_tail, reports))

    def logs(self):
        """What the programs said, for the report of a test that failed: pairs of name and text."""
        for program in self.programs[:4] + self.programs[4:][-12:]:
            for path in (program.out_path, program.err_path):
                if path.stat().st_size:
                    yield f'{path.name}: {program.command}'[:100], _tail(path.read_text(errors='replace'))

    def close(self):
        try:
            self.end_programs()
            self.judge()
        finally:
            open_hosts.remove(self)
            shutil.rmtree(self.home, ignore_errors=True)
