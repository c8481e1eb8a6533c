"""nginx (edge-triggered epoll, writev, sendfile) with curl and wrk."""

import hashlib
import os
import re

import pytest

from harness import free_port, is_root

SIZES = {'one': 1, 'middle': 65536, 'large': 8 << 20}

CONFIGURATION = '''
daemon off;
worker_processes 2;
pid {home}/nginx.pid;
error_log stderr;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 1000000;
    upstream itself {{
        server 127.0.0.1:{port};
        keepalive 8;
    }}
    server {{
        listen 127.0.0.1:{port};
        listen [::1]:{port};
        root {home}/files;
        location /sendfile/ {{ sendfile on; alias {home}/files/; }}
        location /corked/ {{ sendfile on; tcp_nopush on; alias {home}/files/; }}
        location /copied/ {{ sendfile off; alias {home}/files/; }}
        location /proxied/ {{ proxy_pass http://itself/sendfile/; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
}}
'''


class Nginx:
    def __init__(self, agent):
        self.agent, self.port, self.sums = agent, free_port(), {}
        files = agent.home / 'files'
        files.mkdir()
        for name, size in SIZES.items():
            content = os.urandom(size)
            (files / name).write_bytes(content)
            self.sums[name] = hashlib.sha256(content).hexdigest()
        configuration = agent.home / 'nginx.conf'
        configuration.write_text(CONFIGURATION.format(home=agent.home, port=self.port,
                                                      user='user nobody nogroup;' if is_root() else ''))
        self.server = agent.serve(['/usr/sbin/nginx', '-c', configuration], self.port)

    def url(self, path, host='127.0.0.1'):
        return f'http://{host}:{self.port}/{path}'


@pytest.fixture
def nginx(agent):
    return Nginx(agent)


@pytest.mark.parametrize('host', ['127.0.0.1', '[::1]'])
@pytest.mark.parametrize('location', ['sendfile', 'corked', 'copied', 'proxied'])
def test_files(agent, nginx, location, host):
    """Small files, then large ones, all over one connection of curl's."""
    names = ['one'] * 30 + list(SIZES) * 5
    words = [word for i, name in enumerate(names)
             for word in ('-o', agent.home / f'got{i}', nginx.url(f'{location}/{name}', host))]
    result = agent.run(['curl', '--no-progress-meter', '--fail', '-g', '-w', '%{num_connects} %{size_download}\n', *words])
    assert result.out.splitlines() == [f'{int(i == 0)} {SIZES[name]}' for i, name in enumerate(names)]
    for i, name in enumerate(names):
        got = hashlib.sha256((agent.home / f'got{i}').read_bytes()).hexdigest()
        assert got == nginx.sums[name], f'{location}/{name}, request {i}'
    agent.expect_ring(1000000)


def test_ranges_and_errors(agent, nginx):
    """Parts of a file, a missing one, and answers without a body."""
    content = (agent.home / 'files' / 'large').read_bytes()
    for offset in range(0, 8 << 20, 1 << 20):
        agent.run(['curl', '--no-progress-meter', '-r', f'{offset}-{offset + 99999}', nginx.url('sendfile/large'), '-o',
                   agent.home / 'part'])
        assert (agent.home / 'part').read_bytes() == content[offset:offset + 100000], offset
    result = agent.run(['curl', '--no-progress-meter', '-w', '\n%{http_code} %{num_connects}\n', '-I',
                        *[nginx.url('sendfile/one'), nginx.url('missing')] * 20])
    assert re.findall(r'^(\d{3}) (\d)$', result.out, re.MULTILINE) == [('200', '1'), ('404', '0')] + \
        [('200', '0'), ('404', '0')] * 19
    agent.expect_ring(1000)


def test_reload_under_load(agent, nginx):
    """New workers take over; the old ones finish their connections."""
    load = agent.spawn(['wrk', '-t1', '-c8', '-d2s', nginx.url('sendfile/middle')])
    agent.run(['sleep', '0.7'])
    agent.run(['/usr/sbin/nginx', '-c', agent.home / 'nginx.conf', '-s', 'reload'])
    result = load.wait()
    assert requests(result) > 10 and 'Non-2xx' not in result.out, repr(result)
    agent.expect_ring(1000000)


def requests(result):
    return int(re.search(r'(\d+) requests in', result.out).group(1))


@pytest.mark.parametrize('location, name, connections', [('sendfile', 'one', 1), ('sendfile', 'one', 50),
                                                         ('copied', 'middle', 8), ('sendfile', 'large', 4)])
def test_load(agent, nginx, location, name, connections):
    result = agent.run(['wrk', f'-t{min(connections, 2)}', f'-c{connections}', '-d1s', nginx.url(f'{location}/{name}')])
    assert 'Socket errors' not in result.out and 'Non-2xx' not in result.out, repr(result)
    assert requests(result) > 5
    agent.expect_ring(100000)
