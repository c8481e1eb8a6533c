"""PostgreSQL, which forks a process for each connection, with psql and pgbench; no setting but port and directories."""

import glob
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness import as_user, free_port, is_root, user_exists, wait_until

FOUND = sorted(glob.glob('/usr/lib/postgresql/*/bin/postgres'))
BIN = Path(FOUND[-1]).parent if FOUND else Path('/usr/bin')
USER = 'postgres' if user_exists('postgres') else 'nobody'

# Enough of a conversation to be upgraded, then a query that waits.
WAITING = [word for i in range(30) for word in ('-c', f'SELECT {i}')] + ['-c', "SELECT 'asleep', pg_sleep(60)"]
ASLEEP = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%asleep%' AND wait_event = 'PgSleep'"

pytestmark = pytest.mark.skipif(not (BIN / 'postgres').exists(), reason='PostgreSQL is not installed')


@pytest.fixture(scope='module')
def data_directory():
    """A database made once; the servers of this module use it one after the other."""
    directory = Path(tempfile.mkdtemp(prefix='rdma-e2e-pg-'))
    if is_root():
        shutil.chown(directory, USER)
    command = [BIN / 'initdb', '-D', directory / 'data', '-U', 'postgres', '--auth=trust', '--no-sync', '-E', 'UTF8',
               '--locale=C.UTF-8']
    subprocess.run((as_user(USER) if is_root() else []) + command, check=True, stdout=subprocess.DEVNULL, cwd=directory)
    yield directory / 'data'
    shutil.rmtree(directory)


class Postgres:
    def __init__(self, agent, data):
        self.agent, self.port = agent, free_port()
        command = [BIN / 'postgres', '-D', data, '-p', self.port, '-k', data]
        self.server = agent.serve(command, self.port, user=USER)
        self.where = ['-h', '127.0.0.1', '-p', self.port, '-U', 'postgres']
        wait_until(lambda: self.psql('SELECT 1', accelerated=False, check=False).code == 0, 'PostgreSQL answers')

    def command(self, *words):
        return ['psql', '-X', '-A', '-t', *self.where, '-v', 'ON_ERROR_STOP=1', *words]

    def psql(self, sql, **more):
        return self.agent.run(self.command(), input=sql, **more)

    def ask(self, sql):
        return self.psql(sql).out.strip()

    def pgbench(self, *words):
        return self.agent.run([BIN / 'pgbench', *self.where, *words, 'postgres'])


@pytest.fixture
def postgres(agent, data_directory):
    server = Postgres(agent, data_directory)
    yield server
    server.server.stop(signal.SIGINT)       # "fast shutdown": it ends its clients' connections


@pytest.fixture
def accounts(postgres):
    """The tables of pgbench."""
    postgres.pgbench('-i', '-q')
    return postgres


def consistent(postgres):
    """Whether pgbench's transactions happened wholly or not at all, each once."""
    sums = postgres.ask('SELECT sum(abalance) FROM pgbench_accounts; SELECT sum(bbalance) FROM pgbench_branches; '
                        'SELECT sum(tbalance) FROM pgbench_tellers; SELECT sum(delta) FROM pgbench_history;').split()
    return len(set(sums)) == 1


def processed(result):
    """The number of transactions that pgbench reports; fails if any failed."""
    assert 'number of failed transactions: 0 ' in result.out, repr(result)
    return int(re.search(r'transactions actually processed: (\d+)', result.out).group(1))


def test_psql_answers(agent, postgres):
    statements = [f"SELECT {i} * {i}, repeat('{i} ', {i % 50});" for i in range(3000)]
    expected = [f'{i * i}|' + f'{i} ' * (i % 50) for i in range(3000)]
    assert postgres.psql('\n'.join(statements)).out.splitlines() == expected
    agent.expect_ring(100000)


def test_large_results(agent, postgres):
    sql = "SELECT 1;" * 20 + "SELECT md5(repeat('0123456789', 800000)); SELECT repeat('0123456789', 800000);"
    lines = postgres.psql(sql).out.splitlines()
    assert lines[:20] == ['1'] * 20 and lines[21] == '0123456789' * 800000
    agent.expect_ring(1000000)


@pytest.mark.parametrize('options', [['-T', 2], ['-T', 2, '-M', 'prepared'], ['-t', 50, '-C']],
                         ids=['simple', 'prepared', 'reconnecting'])
def test_pgbench(agent, accounts, options):
    result = accounts.pgbench('-n', '-c', 4, '-j', 2, *options)
    count = processed(result)
    assert count == 200 if '-C' in options else count > 50
    assert accounts.ask('SELECT count(*) FROM pgbench_history') == str(count)
    assert consistent(accounts)
    agent.expect_ring(10000)


def test_pgbench_reading(agent, accounts):
    assert processed(accounts.pgbench('-n', '-S', '-c', 4, '-j', 2, '-T', 2, '-M', 'prepared')) > 100
    agent.expect_ring(100000)


def test_copy_out_and_in(agent, postgres):
    """Some 12 MB out into a file and back in; sums are taken by the server on both sides."""
    table = agent.home / 'table.txt'
    total = "SELECT count(*), md5(string_agg(n || t, '' ORDER BY n)) FROM %s;"
    out = postgres.psql("CREATE TABLE a AS SELECT n, repeat(md5(n::text), 3) AS t FROM generate_series(1, 120000) n;"
                        f"\n\\copy a TO '{table}'\n" + total % 'a').out.splitlines()
    assert table.stat().st_size > 12e6 and len(table.read_text().splitlines()) == 120000
    back = postgres.psql(f"CREATE TABLE b (n int, t text);\n\\copy b FROM '{table}'\n" + total % 'b').out.splitlines()
    assert back[-1] == out[-1] and back[-1].startswith('120000|')
    postgres.psql('DROP TABLE a, b')
    agent.expect_ring(1000000)


def test_control_c_cancels(agent, postgres):
    """psql cancels over a second connection, which it opens in its signal handler."""
    psql = agent.spawn(postgres.command(*WAITING))
    wait_until(lambda: postgres.ask(ASLEEP), 'psql waits in its query', every=0.1)
    agent.expect_ring(100)
    before = time.monotonic()
    result = psql.stop(signal.SIGINT)
    assert time.monotonic() - before < 5
    assert 'canceling statement due to user request' in result.err, repr(result)
    assert result.out.split() == [str(i) for i in range(30)] and not postgres.ask(ASLEEP)


def test_listen_and_notify(agent, postgres):
    listener = agent.spawn(postgres.command(), stdin=subprocess.PIPE)

    def say(sql, expected):
        listener.popen.stdin.write(sql.encode() + b'\n')
        listener.popen.stdin.flush()
        wait_until(lambda: expected in listener.out(), f'psql says {expected}')

    say('LISTEN news;', 'LISTEN')
    for i in range(30):
        say(f'SELECT {i} + 1000;', str(i + 1000))
    for i in range(20):
        assert postgres.ask(f"NOTIFY news, 'number {i}'") == 'NOTIFY'
    say('SELECT 5000;', '5000')
    heard = re.findall(r'Asynchronous notification "news" with payload "number (\d+)"', listener.out())
    assert heard == [str(i) for i in range(20)]
    listener.popen.stdin.close()
    assert listener.wait().code == 0
    agent.expect_ring(1000)


def test_server_shutdown_ends_its_clients(agent, postgres):
    psql = agent.spawn(postgres.command(*WAITING))
    wait_until(lambda: postgres.ask(ASLEEP), 'psql waits in its query', every=0.1)
    agent.expect_ring(100)
    assert postgres.server.stop(signal.SIGINT).code == 0
    result = psql.wait(check=False)
    assert result.code == 2 and 'terminating connection due to administrator command' in result.err, repr(result)


def test_killed_backend(agent, postgres):
    """One client's process is killed with SIGKILL: its client notices, and the server comes back by itself."""
    psql = agent.spawn(postgres.command(*WAITING))
    backend = wait_until(lambda: postgres.ask(ASLEEP), 'psql waits in its query', every=0.1)
    agent.expect_ring(100)
    agent.run(['kill', '-9', backend], user=USER)
    result = psql.wait(check=False)
    assert result.code == 2 and 'server closed the connection unexpectedly' in result.err, repr(result)
    wait_until(lambda: postgres.psql('SELECT 7', check=False).out == '7\n', 'the server is back', every=0.1)
