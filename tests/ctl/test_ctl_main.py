"""The command line: finding commands, options before and after them, the runtime directory, help."""

import json
import os

import pytest
from fake_agent import VERSION, FakeAgent

COMMANDS = ['list', 'stats', 'limit', 'fallback', 'peers', 'reload', 'top', 'doctor', 'run', 'version', 'help']


def test_no_command_is_a_mistake(ctl):
    done = ctl()
    assert done.returncode == 2 and done.stdout == '' and done.stderr.startswith('usage: rdmactl ')


@pytest.mark.parametrize('arguments', [['help'], ['--help'], ['-h']])
def test_help(ctl, arguments):
    done = ctl(*arguments)
    assert done.returncode == 0 and done.stderr == ''
    for command in COMMANDS:
        assert '\n  %s ' % command in done.stdout


@pytest.mark.parametrize('command', COMMANDS)
def test_help_of_a_command(ctl, command):
    texts = [ctl('help', command), ctl(command, '--help'), ctl(command, '-h')]
    assert {done.returncode for done in texts} == {0} and {done.stderr for done in texts} == {''}
    assert texts[0].stdout == texts[1].stdout == texts[2].stdout or command == 'help'
    assert texts[0].stdout.startswith('usage: rdmactl %s' % command)


def test_help_for_programs(ctl):
    listed = json.loads(ctl('help', '--json').stdout)
    assert [command['command'] for command in listed] == COMMANDS
    assert all(set(command) == {'command', 'arguments', 'summary'} for command in listed)


@pytest.mark.parametrize('arguments', [['version'], ['--version'], ['-V']])
def test_version(ctl, arguments):
    done = ctl(*arguments)
    assert (done.stdout, done.stderr, done.returncode) == ('rdmactl %s\n' % VERSION, '', 0)


def test_version_for_programs(ctl):
    assert json.loads(ctl('version', '--json').stdout) == {'version': VERSION}
    assert json.loads(ctl('--json', '--version').stdout) == {'version': VERSION}


@pytest.mark.parametrize('arguments, complaint', [
    (['lst'], 'there is no command "lst"'),
    (['help', 'lst'], 'there is no command "lst"'),
    (['help', 'list', 'top'], 'not "top" as well'),
    (['--nonsense', 'list'], 'unknown option "--nonsense"'),
    (['-x', 'list'], 'unknown option "-x"'),
    (['list', '--nonsense'], 'unknown option "--nonsense"'),
    (['list', '-x'], 'unknown option "-x"'),
    (['list', '--json=1'], 'option "--json=1" takes no value'),
    (['list', '--pid'], 'option "--pid" needs a value'),
    (['--runtime-dir'], 'option "--runtime-dir" needs a value'),
    (['list', '--runtime-dir='], 'expected the name of a directory'),
    (['list', 'redis'], 'expected no arguments, not "redis"'),
    (['stats', 'all'], 'expected no arguments, not "all"'),
    (['fallback'], 'expected the id of a session (see rdmactl list), or --all'),
    (['fallback', '--all', '7'], 'expected the id of a session'),
    (['fallback', 'seven'], 'expected the id of a session such as 17, not "seven"'),
    (['peers', 'db2'], 'expected no arguments, not "db2"; --connect takes a peer\'s name'),
    (['peers', '--connect', 'db2', 'db3'], 'expected one peer, not "db3" as well'),
    (['reload', 'x'], 'expected no arguments, not "x"'),
    (['version', 'x'], 'expected no arguments, not "x"'),
    (['top', 'x'], 'expected no arguments, not "x"'),
    (['top', '-n'], 'option "-n" needs a value'),
    (['doctor', 'a', 'b'], 'expected one program, not "b" as well'),
    (['run'], 'expected a program to run'),
    (['run', '--'], 'expected a program to run'),
    (['run', '--verbose', 'true'], 'unknown option "--verbose"'),
])
def test_mistakes(ctl, fake, arguments, complaint):
    done = ctl(*arguments)
    assert done.returncode == 2 and done.stdout == '' and complaint in done.stderr
    assert 'see: rdmactl help' in done.stderr and not fake.requests


def test_the_runtime_directory(ctl, fake, tmp_path):
    """An option wins over the environment, wherever it stands."""
    elsewhere = {'RDMA_AGENT_DIR': str(tmp_path)}
    assert ctl('list', env=elsewhere).returncode == 3
    assert ctl('--runtime-dir', fake.directory, 'list', env=elsewhere).returncode == 0
    assert ctl('list', '--runtime-dir', fake.directory, env=elsewhere).returncode == 0
    assert ctl('list', '--runtime-dir=%s//' % fake.directory, env=elsewhere).returncode == 0
    assert ctl('list', '--runtime-dir', fake.directory.name, env=elsewhere, cwd=fake.directory.parent).returncode == 0
    assert ctl('--runtime-dir', tmp_path, 'list', '--runtime-dir', fake.directory).returncode == 0


def test_the_default_directory(ctl):
    if os.path.exists('/run/rdma-agent/control.sock'):
        pytest.skip('an agent runs here')
    assert '/run/rdma-agent/control.sock' in ctl('list', env={'RDMA_AGENT_DIR': ''}).stderr


def test_options_end_at_two_dashes(ctl, fake):
    done = ctl('limit', '--', '--json')
    assert done.returncode == 2 and 'expected KEY=VALUE, not "--json"' in done.stderr


def test_two_agents(ctl, fake, tmp_path):
    second = FakeAgent(tmp_path)
    second.answers['list'] = {'sessions': [{'id': 77}]}
    try:
        assert json.loads(ctl('list', '--json', '--runtime-dir', tmp_path).stdout) == [{'id': 77}]
        assert json.loads(ctl('list', '--json').stdout) == []
    finally:
        second.close()
