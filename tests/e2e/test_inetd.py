"""Servers that are given their connections, or the socket they listen on, when they are started."""

import shutil

import pytest

from harness import PROGRAMS, PYTHON, free_port

INETD = shutil.which('inetd') or shutil.which('inetd', path='/usr/sbin:/usr/local/sbin')
ACTIVATE = shutil.which('systemd-socket-activate')
PASSED_ON = ['-E', 'LD_PRELOAD', '-E', 'RDMA_AGENT_DIR', '-E', 'ASAN_OPTIONS', '-E', 'UBSAN_OPTIONS', '-E', 'TSAN_OPTIONS',
             '-E', 'RDMA_E2E_HOME']

needs_inetd = pytest.mark.skipif(not INETD, reason='inetd is not installed')
needs_activate = pytest.mark.skipif(not ACTIVATE, reason='systemd-socket-activate is not installed')


def start_inetd(host, *server):
    """-E keeps the environment, -i stays in the foreground."""
    port = free_port()
    config = host.home / 'inetd.conf'
    config.write_text(f'127.0.0.1:{port} stream tcp nowait root {" ".join(map(str, server))}\n')
    host.serve([INETD, '-E', '-i', config], port)
    return port


def activate(host, *command):
    port = free_port()
    host.serve([ACTIVATE, '-l', f'127.0.0.1:{port}', *PASSED_ON, *command], port)
    return port


# Such connections are upgraded only when the agent has found out who holds them, which takes longer on a busy machine.
PATIENT = '''
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
with socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as sock:
    while time.monotonic() < end:
        sock.sendall(b'x' * 1000)
        left = 1000
        while left:
            left -= len(sock.recv(left))
print('ok')
'''


def check_echo(host, port, seconds=2):
    assert host.python('echo_client.py', port, 'blocking', 4).out == 'ok\n'
    assert host.run([PYTHON, '-c', PATIENT, port, seconds]).out == 'ok\n'


@needs_inetd
def test_inetd(agent):
    """Each connection is a program's standard input and output."""
    check_echo(agent, start_inetd(agent, shutil.which('cat'), 'cat'))
    agent.expect_ring(100_000)


@needs_inetd
def test_inetd_starts_programs_without_the_library(agent):
    check_echo(agent, start_inetd(agent, shutil.which('env'), 'env', '-u', 'LD_PRELOAD', 'cat'), 0.1)
    agent.expect_no_ring()


@needs_inetd
def test_inetd_starts_a_shell(agent):
    """It writes by stdio, reads by itself, and has children that copy."""
    script = agent.home / 'answer.sh'
    script.write_text('for i in 1 2 3 4 5 6 7 8 9 10; do read -r line; echo "got $line"; done\ncat\n')
    port = start_inetd(agent, shutil.which('bash'), 'bash', script)
    client = agent.run(['bash', '-c', f'''exec 9<>/dev/tcp/127.0.0.1/{port}
        for i in $(seq 10); do echo line $i >&9; read -r answer <&9; [ "$answer" = "got line $i" ] || exit 1; done
        seq 20000 > sent; cat sent >&9 & head -c $(stat -c %s sent) <&9 > back; wait $!; cmp sent back && echo same'''])
    assert client.out == 'same\n'


@needs_activate
def test_socket_activation_for_each_connection(agent):
    check_echo(agent, activate(agent, '--accept', '--inetd', shutil.which('cat')))
    agent.expect_ring(100_000)


@needs_activate
def test_socket_activation(agent):
    """The server is given the listening socket, as descriptor 3."""
    check_echo(agent, activate(agent, PYTHON, PROGRAMS / 'echo_server.py', 'activated', 'select'))
    agent.expect_ring(100_000)
