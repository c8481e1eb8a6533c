"""What rdmactl makes of an agent that is not there, says no, hangs, or talks nonsense."""

import contextlib
import os
import socket
import time

import pytest
from fake_agent import Error, FakeAgent
from rdmactl import PATIENCE, Ctl

QUESTIONS = [['list'], ['stats'], ['limit'], ['limit', 'ring_memory=1GiB'], ['fallback', '3'], ['peers'], ['peers', '--connect'],
             ['reload'], ['top', '-n', '1']]


@pytest.mark.parametrize('command', QUESTIONS, ids=' '.join)
def test_no_agent(ctl, command):
    done = ctl(*command)
    assert done.returncode == 3 and done.stdout == ''
    assert done.stderr.startswith('rdmactl %s: no agent answers on %s/control.sock' % (command[0], ctl.directory))
    assert 'start one with rdma-agent' in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.parametrize('command', QUESTIONS, ids=' '.join)
def test_errors_are_text_also_with_json(ctl, command):
    done = ctl('--json', *command)
    assert done.returncode == 3 and done.stdout == '' and done.stderr.startswith('rdmactl ')


def test_a_stale_socket(ctl, fake):
    fake.close()
    done = ctl('list')
    assert done.returncode == 3 and 'Connection refused' in done.stderr


def test_the_directory_is_a_file(ctl):
    (ctl.directory / 'file').touch()
    assert ctl('--runtime-dir', ctl.directory / 'file', 'list').returncode == 3


def test_a_directory_name_too_long_for_a_socket(ctl):
    done = ctl('--runtime-dir', '/tmp/' + 'x' * 200, 'list')
    assert done.returncode == 1 and 'too long: expected at most' in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to become another user')
def test_a_directory_that_may_not_be_entered(ctl, fake):
    ctl.directory.chmod(0o700)
    done = ctl('list', user=65534, group=65534, extra_groups=[])
    assert done.returncode == 1 and 'Permission denied' in done.stderr and 'mode 0755' in done.stderr


@pytest.mark.parametrize('command', QUESTIONS, ids=' '.join)
def test_the_agent_says_no(ctl, fake, command):
    no = Error(-32001, 'permission denied: only root may do that')
    fake.answers = dict.fromkeys(['list', 'stats', 'limit.get', 'limit.set', 'fallback', 'reload', 'peers',
                                  'peers.connect'], no)
    done = ctl(*command)
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr == 'rdmactl %s: permission denied: only root may do that\n' % command[0]


def test_an_error_cannot_write_to_the_terminal(ctl, fake):
    fake.answers['list'] = Error(-32000, 'bad\x1b[2J\nrdmactl: all is well')
    assert ctl('list').stderr == 'rdmactl list: bad?[2J?rdmactl: all is well\n'


def answering(text):
    return lambda connection, line: connection.sendall(text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize('answer, complaint', [
    ('', 'closed the connection without an answer'),
    ('{"jsonrpc":"2.0"', 'closed the connection in the middle'),
    ('\n', 'malformed'),
    ('nonsense\n', 'malformed'),
    (b'\xff\xfe\x00\n', 'malformed'),
    ('42\n', 'malformed'),
    ('[1, 2]\n', '"jsonrpc": "2.0"'),
    ('{}\n', '"jsonrpc": "2.0"'),
    ('{"jsonrpc":"1.0","id":1,"result":{}}\n', '"jsonrpc": "2.0"'),
    ('{"jsonrpc":"2.0","id":2,"result":{}}\n', 'the "id" of the question'),
    ('{"jsonrpc":"2.0","result":{}}\n', 'the "id" of the question'),
    ('{"jsonrpc":"2.0","id":1}\n', 'a "result" or an "error"'),
    ('{"jsonrpc":"2.0","id":1,"error":"no"}\n', 'an error with a "message"'),
    ('{"jsonrpc":"2.0","id":1,"error":{"code":1}}\n', 'an error with a "message"'),
    ('[' * 100000 + '\n', 'malformed'),
], ids=range(15))
def test_malformed_answers(ctl, fake, answer, complaint):
    fake.raw = answering(answer)
    done = ctl('list')
    assert done.returncode == 1 and done.stdout == ''
    assert complaint in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.parametrize('command, method, result', [
    ('list', 'list', []), ('list', 'list', {}), ('list', 'list', {'sessions': {}}), ('list', 'list', {'sessions': [1]}),
    ('top', 'list', {'sessions': [None]}), ('stats', 'stats', 7), ('stats', 'stats', {'agent': 'x'}),
    ('limit', 'limit.get', {'limits': []}), ('reload', 'reload', {'changed': 'all'}),
    ('fallback --all', 'fallback', {'recalled': 'all'}), ('peers', 'peers', {'peers': [{}]}),
    ('peers --connect', 'peers.connect', {'peers': None}),
])
def test_answers_of_another_shape(ctl, fake, command, method, result):
    fake.answers[method] = result
    done = ctl(*command.split())
    assert done.returncode == 1 and done.stdout == ''
    assert 'answer to "%s" is malformed: expected' % method in done.stderr


def test_an_answer_in_pieces_and_more_after_it(ctl, fake):
    def pieces(connection, line):
        for byte in b'{"jsonrpc":"2.0","id":1,"result":{"sessions":[]}}\nand more\n':
            connection.sendall(bytes([byte]))
            fake.wait(0.001)
    fake.raw = pieces
    assert ctl('list').stdout == 'no sessions\n'


def test_a_long_answer(ctl, fake):
    fake.answers['list'] = {'sessions': [{'id': 1, 'command': 'x' * 1000} for _ in range(20000)]}
    assert ctl('list').stdout.count('\n') == 20001


def test_an_answer_without_an_end(ctl, fake):
    def endless(connection, line):
        while True:
            connection.sendall(b' ' * (1 << 20))
    fake.raw = endless
    done = ctl('list')
    assert done.returncode == 1 and 'longer than 128 MiB' in done.stderr


def test_the_question(ctl, fake):
    ctl('limit', 'ring_memory=1GiB')
    assert fake.requests == [{'jsonrpc': '2.0', 'id': 1, 'method': 'limit.set', 'params': {'ring_memory': 1 << 30}}]


def hang(agent, connection):
    agent.wait(60)


def drip(agent, connection):
    """Something comes all the time, but never the end of it."""
    for _ in range(600):
        connection.sendall(b' ')
        agent.wait(0.1)


@contextlib.contextmanager
def slow_agent(directory, slowness):
    agent = FakeAgent(directory)
    agent.raw = lambda connection, line: slowness(agent, connection)
    yield
    agent.close()


@contextlib.contextmanager
def agent_that_accepts_nobody(directory):
    with contextlib.ExitStack() as sockets:
        listener, *waiting = (sockets.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4))
        listener.bind(str(directory / 'control.sock'))
        listener.listen(0)
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(str(directory / 'control.sock'))
        yield


def test_a_slow_agent_is_given_up_after_five_seconds(tmp_path_factory):
    """All of them at once, since it takes its time."""
    agents = [lambda directory: slow_agent(directory, hang), lambda directory: slow_agent(directory, drip),
              agent_that_accepts_nobody]
    with contextlib.ExitStack() as running:
        directories = [tmp_path_factory.mktemp('slow') for _ in agents]
        for make, directory in zip(agents, directories):
            running.enter_context(make(directory))
        begin = time.monotonic()
        asked = [Ctl(directory).start('list') for directory in directories]
        said = [one.communicate(timeout=PATIENCE)[1] for one in asked]
        assert 4.9 < time.monotonic() - begin < 9
    for process, err in zip(asked, said):
        assert process.returncode == 1 and 'did not answer within 5 s' in err
