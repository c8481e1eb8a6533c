"""The cases of real programs: redis, memcached, nginx, PostgreSQL. Servers run on the near CPU and clients on the far
one, unless the case says otherwise.
"""

import contextlib
import csv
import io
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from time import monotonic

from cases import NEVER_UNDER, Aim, Case, Metric
from host import Failure, find_program, free_port, unprivileged_user
from micro import agent_of

SOCKETS = ('tcp', 'unix', 'ours')

# name suffix: (title, never halting, everything on one CPU)
MODES = {'': ('2 CPUs', False, False), '-nohalt': ('never halting', True, False), '-1cpu': ('1 CPU', False, True)}


def places(host, one_cpu):
    """The CPUs of the server and those of its client."""
    return [host.near], [host.near if one_cpu else host.far]


def program_seconds(settings):
    return max(1, round(2 * settings.seconds))


def search(pattern, text, program):
    found = re.search(pattern, text)
    if not found:
        raise Failure('%s printed something unexpected: %s' % (program, text.strip()[-300:]))
    return float(found.group(1))


# ---- redis

@contextlib.contextmanager
def redis_server(host, name, cpus, agent):
    port, path = free_port(), host.home / (name + '.sock')
    command = [find_program('redis-server', 'redis'), '--bind', '127.0.0.1', '--port', port, '--unixsocket', path,
               '--save', '', '--appendonly', 'no', '--dir', host.home]
    with host.serving(command, ('127.0.0.1', port), cpus=cpus, agent=agent):
        yield ['-h', '127.0.0.1', '-p', port], ['-s', path]


def redis_get(host, where, clients, pipeline, requests, cpus, agent):
    """Runs redis-benchmark and returns requests per second."""
    command = [find_program('redis-benchmark', 'redis-tools'), *where, '-t', 'get', '--csv', '-c', clients,
               '-P', pipeline, '-n', requests]
    rows = list(csv.reader(io.StringIO(host.run(command, timeout=120, cpus=cpus, agent=agent))))
    for row in rows:
        if row and row[0] == 'GET':
            return float(row[1])
    raise Failure('redis-benchmark printed no rate: %s' % rows)


def redis(clients, pipeline=1, one_cpu=False, agent='default'):
    @contextlib.contextmanager
    def opened(host, settings):
        server, client = places(host, one_cpu)
        rates = {}

        def measure(variant):
            where = (ours[0] if variant == 'ours' else plain[variant == 'unix'])
            # redis-benchmark ends after a number of requests, so what fits into the time must be known.
            if variant not in rates:
                rates[variant] = redis_get(host, where, clients, pipeline, 4000 * pipeline, client,
                                           agent_of(variant, agent))
            requests = max(1000 * pipeline, int(rates[variant] * program_seconds(settings)))
            rates[variant] = redis_get(host, where, clients, pipeline, requests, client, agent_of(variant, agent))
            return {'per_second': rates[variant], 'connections': clients, 'payload_bytes': 40 * requests}

        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(redis_server(host, 'redis', server, None))
            ours = stack.enter_context(redis_server(host, 'redis-ours', server, agent)) if host.library else None
            yield measure
    return opened


def redis_metric(title, *aims):
    return [Metric('per_second', 'redis GET, ' + title, 'requests/s', 'higher', aims)]


def redis_cases():
    faster_than_unix = Aim('unix', 1.0)
    for (suffix, (title, never_halting, one_cpu)), limit in zip(MODES.items(), (4, 3, 1.5)):
        yield Case('redis-1' + suffix, 'redis', redis_metric('1 client, ' + title, Aim('tcp', limit), faster_than_unix),
                   redis(1, one_cpu=one_cpu), SOCKETS, never_halting)
    yield Case('redis-50', 'redis', redis_metric('50 clients', Aim('tcp', 2)), redis(50), SOCKETS)
    yield Case('redis-50-1cpu', 'redis', redis_metric('50 clients, 1 CPU', Aim('tcp', NEVER_UNDER)),
               redis(50, one_cpu=True), SOCKETS)
    yield Case('redis-50-p16', 'redis', redis_metric('50 clients, pipelined by 16', Aim('tcp', 1.3)), redis(50, 16),
               SOCKETS)
    yield Case('redis-50-denied', 'redis', redis_metric('50 clients, port denied', Aim('tcp', 0.98)),
               redis(50, agent='never'), ('tcp', 'ours'), agent='never', ring=False)


# ---- memcached

@contextlib.contextmanager
def memcached_server(host, variant, cpus):
    port, path = free_port(), host.home / 'memcached.sock'
    where = ['-s', path] if variant == 'unix' else ['-l', '127.0.0.1', '-p', port, '-U', '0']
    command = [find_program('memcached', 'memcached'), '-u', 'root', '-t', '1', *where]
    address = str(path) if variant == 'unix' else ('127.0.0.1', port)
    with host.serving(command, address, cpus=cpus, agent=agent_of(variant)):
        yield {'path': path} if variant == 'unix' else {'port': port}


def memcached(connections):
    @contextlib.contextmanager
    def opened(host, settings):
        server, (client,) = places(host, False)
        with contextlib.ExitStack() as stack:
            where = {variant: stack.enter_context(memcached_server(host, variant, server)) for variant in SOCKETS
                     if variant != 'ours' or host.library}

            def measure(variant):
                result = host.measure('memget', 60 + 5 * settings.seconds, agent_of(variant), connections=connections,
                                      seconds=program_seconds(settings), client_cpus=client, **where[variant])
                return dict(result, connections=connections, payload_bytes=100 * result['gets'])
            yield measure
    return opened


def memcached_cases():
    metric = Metric('per_second', 'memcached get, 50 connections', 'requests/s', 'higher', (Aim('tcp', 2.5),))
    yield Case('memcached-50', 'memcached', [metric], memcached(50), SOCKETS)


# ---- nginx

NGINX = '''%(user)s
worker_processes 1;
daemon off;
pid %(home)s/%(name)s.pid;
error_log %(home)s/%(name)s.error.log crit;
events { worker_connections 512; }
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_temp_path %(home)s/%(name)s.body;
    proxy_temp_path %(home)s/%(name)s.proxy;
    fastcgi_temp_path %(home)s/%(name)s.fastcgi;
    uwsgi_temp_path %(home)s/%(name)s.uwsgi;
    scgi_temp_path %(home)s/%(name)s.scgi;
    server { listen 127.0.0.1:%(port)d; root %(home)s/www; }
}
'''
PAGES = {'256': 256, '64k': 65536}


@contextlib.contextmanager
def nginx_server(host, name, cpus, agent):
    port = free_port()
    config = host.home / (name + '.conf')
    # Its worker stays the same user as its clients.
    values = dict(name=name, home=host.home, port=port, user='user root;' if os.geteuid() == 0 else '')
    config.write_text(NGINX % values)
    pages = host.home / 'www'
    pages.mkdir(exist_ok=True)
    for page, size in PAGES.items():
        (pages / page).write_bytes(b'x' * size)
    command = [find_program('nginx', 'nginx-light'), '-c', config, '-p', host.home]
    with host.serving(command, ('127.0.0.1', port), cpus=cpus, agent=agent):
        yield port


def nginx(page, connections, one_cpu=False):
    @contextlib.contextmanager
    def opened(host, settings):
        server, client = places(host, one_cpu)
        wrk = find_program('wrk', 'wrk')

        def measure(variant):
            url = 'http://127.0.0.1:%d/%s' % (ours if variant == 'ours' else plain, page)
            seconds = program_seconds(settings)
            command = [wrk, '-t1', '-c%d' % connections, '-d%ds' % seconds, url]
            output = host.run(command, timeout=60 + seconds, cpus=client, agent=agent_of(variant))
            if re.search(r'Non-2xx|Socket errors', output):
                raise Failure('wrk met errors: %s' % output[-300:])
            rate = search(r'Requests/sec:\s*([0-9.]+)', output, 'wrk')
            requests = search(r'([0-9]+) requests in', output, 'wrk')
            return {'per_second': rate, 'connections': connections, 'payload_bytes': requests * PAGES[page]}

        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(nginx_server(host, 'nginx', server, None))
            ours = stack.enter_context(nginx_server(host, 'nginx-ours', server, 'default')) if host.library else None
            yield measure
    return opened


def nginx_metric(title, limit):
    return [Metric('per_second', 'nginx, ' + title, 'requests/s', 'higher', (Aim('tcp', limit),))]


def nginx_cases():
    variants = ('tcp', 'ours')      # wrk speaks no Unix sockets
    for (suffix, (title, never_halting, one_cpu)), limit in zip(MODES.items(), (3, NEVER_UNDER, NEVER_UNDER)):
        yield Case('nginx-1' + suffix, 'nginx', nginx_metric('256 B, 1 connection, ' + title, limit),
                   nginx('256', 1, one_cpu), variants, never_halting)
    yield Case('nginx-50', 'nginx', nginx_metric('256 B, 50 connections', 1.7), nginx('256', 50), variants)
    yield Case('nginx-64k-8', 'nginx', nginx_metric('64 KiB, 8 connections', 1.8), nginx('64k', 8), variants)


# ---- PostgreSQL

POSTGRES_DATABASE = 'postgres'
POSTGRES_CONFIG = '''
listen_addresses = '127.0.0.1'
port = %(port)d
unix_socket_directories = '%(directory)s'
max_connections = 40
shared_buffers = 64MB
fsync = off
autovacuum = off
ssl = off
logging_collector = off
'''


class Postgres:
    """One database cluster and, within `serving`, its server. PostgreSQL refuses to run as root."""

    def __init__(self, host, name):
        self.host = host
        self.user = unprivileged_user('postgres', 'nobody')
        self.directory = host.home / name
        self.data = self.directory / 'data'
        self.port = free_port()

    def program(self, name):
        newest = sorted(Path('/usr/lib/postgresql').glob('*/bin'), key=lambda path: int(path.parent.name))[-1:]
        return find_program(name, 'postgresql', *newest)

    def create(self):
        self.directory.mkdir()
        if self.user:
            shutil.chown(self.directory, self.user.pw_uid, self.user.pw_gid)
        self.run('initdb', '-D', self.data, '-U', 'bench', '-A', 'trust', '--no-locale', '-E', 'UTF8', '--no-sync')
        with open(self.data / 'postgresql.conf', 'a') as config:
            config.write(POSTGRES_CONFIG % dict(port=self.port, directory=self.directory))

    @contextlib.contextmanager
    def serving(self, cpus, agent):
        command = [self.program('postgres'), '-D', self.data]
        socket_path = str(self.directory / ('.s.PGSQL.%d' % self.port))
        with self.host.serving(command, socket_path, cpus=cpus, agent=agent, user=self.user,
                               log=self.directory.name) as process:
            try:
                self.await_ready()
                yield self
            finally:
                process.send_signal(signal.SIGINT)      # ends the sessions that there are and shuts down
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)

    def await_ready(self):
        """It accepts connections before it answers them."""
        for _ in range(400):
            with contextlib.suppress(Failure):
                self.run('pg_isready', '-q', *self.where('unix'), '-d', POSTGRES_DATABASE)
                return
        raise Failure('PostgreSQL does not get ready: %s' % self.host.log_text(self.directory.name))

    def where(self, variant):
        place = self.directory if variant == 'unix' else '127.0.0.1'
        return ['-h', place, '-p', self.port, '-U', 'bench']

    def run(self, name, *arguments, cpus=None, agent=None):
        return self.host.run([self.program(name), *arguments], timeout=180, user=self.user, cpus=cpus, agent=agent)


def postgres_cluster(host, name):
    """A cluster with pgbench's tables, made once in a run."""
    clusters = host.__dict__.setdefault('clusters', {})
    if name not in clusters:
        cluster = Postgres(host, name)
        cluster.create()
        with cluster.serving(None, None):
            cluster.run('pgbench', '-i', '-q', *cluster.where('unix'), POSTGRES_DATABASE)
        clusters[name] = cluster
    return clusters[name]


@contextlib.contextmanager
def postgres_servers(host, cpus):
    """Gives server_of(variant)."""
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(postgres_cluster(host, 'postgres').serving(cpus, None))
        ours = None
        if host.library:
            ours = stack.enter_context(postgres_cluster(host, 'postgres-ours').serving(cpus, 'default'))
        yield lambda variant: ours if variant == 'ours' else plain


def pgbench(clients, one_cpu=False, both_cpus=False):
    @contextlib.contextmanager
    def opened(host, settings):
        server, client = places(host, one_cpu)
        if both_cpus:
            server = client = [host.near, host.far]
        seconds = program_seconds(settings)
        with postgres_servers(host, server) as server_of:
            def measure(variant):
                postgres = server_of(variant)
                output = postgres.run('pgbench', '-S', '-M', 'prepared', '-n', '-c', clients, '-T', seconds,
                                      *postgres.where(variant), POSTGRES_DATABASE, cpus=client,
                                      agent=agent_of(variant))
                if search(r'number of failed transactions: ([0-9]+)', output, 'pgbench'):
                    raise Failure('pgbench met errors: %s' % output[-300:])
                done = search(r'number of transactions actually processed: ([0-9]+)', output, 'pgbench')
                return {'tps': search(r'tps = ([0-9.]+)', output, 'pgbench'), 'connections': clients,
                        'payload_bytes': 60 * done}
            yield measure
    return opened


STATEMENTS = ('select %d;', 'select %d + 1;', "select 'row %d';", 'select length(\'%d\');')


def psql_replay(one_cpu=False):
    @contextlib.contextmanager
    def opened(host, settings):
        server, client = places(host, one_cpu)
        count = 4000 if settings.quick else 40000
        script = host.home / ('replay-%d.sql' % count)
        script.write_text('\n'.join(STATEMENTS[i % len(STATEMENTS)] % i for i in range(count)) + '\n')
        script.chmod(0o644)
        with postgres_servers(host, server) as server_of:
            def measure(variant):
                postgres = server_of(variant)
                begin = monotonic()
                postgres.run('psql', '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', script,
                             *postgres.where(variant), POSTGRES_DATABASE, cpus=client, agent=agent_of(variant))
                return {'seconds': monotonic() - begin, 'connections': 1, 'payload_bytes': 60 * count}
            yield measure
    return opened


def postgres_cases():
    for (suffix, (title, never_halting, one_cpu)), limit in zip(MODES.items(), (2, 1.6, NEVER_UNDER)):
        metric = Metric('tps', 'pgbench -S prepared, 1 client, ' + title, 'tps', 'higher', (Aim('tcp', limit),))
        yield Case('pgbench-1' + suffix, 'PostgreSQL', [metric], pgbench(1, one_cpu), SOCKETS, never_halting)
    metric = Metric('tps', 'pgbench -S prepared, 8 clients', 'tps', 'higher', (Aim('tcp', 1.4),))
    yield Case('pgbench-8', 'PostgreSQL', [metric], pgbench(8, both_cpus=True), SOCKETS)
    for (suffix, (title, never_halting, one_cpu)), limit in zip(MODES.items(), (1.6, 1.4, NEVER_UNDER)):
        metric = Metric('seconds', 'psql replay of 40,000 statements, ' + title, 's',
                        aims=(Aim('tcp', limit), Aim('unix', 1.0)))
        yield Case('psql' + suffix, 'PostgreSQL', [metric], psql_replay(one_cpu), SOCKETS, never_halting)


def cases():
    for family in (redis_cases, memcached_cases, nginx_cases, postgres_cases):
        yield from family()
