"""What stands beside the program, and must not fall behind it: the manual page, and the completion of the shell."""

import json
import re
import shutil
import subprocess

import pytest
from fake_agent import LIMITS, peer, peers, row, stats
from rdmactl import ROOT

PAGE = ROOT / 'ctl' / 'rdmactl.1'
COMPLETION = ROOT / 'ctl' / 'rdmactl.bash'


def commands(ctl):
    return json.loads(ctl('help', '--json').stdout)


@pytest.mark.skipif(not shutil.which('groff'), reason='groff is not installed')
def test_the_page_is_sound():
    done = subprocess.run(['groff', '-ww', '-man', '-Tutf8', '-z', PAGE], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.skipif(not shutil.which('man'), reason='man is not installed')
def test_the_page_is_sound_for_man():
    done = subprocess.run(['man', '--warnings', '-l', PAGE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, '') and 'NAME' in done.stdout


def page():
    return re.sub(r'\\-', '-', PAGE.read_text())


def test_the_page_knows_every_command_and_option(ctl):
    text = page()
    assert re.findall(r'^\.SS (\S+)$', text, re.MULTILINE) == [command['command'] for command in commands(ctl)]
    for command in commands(ctl):
        for option in re.findall(r'--?[a-z-]+', ctl('help', command['command']).stdout):
            assert option in text, option


def test_the_page_knows_every_member_and_limit():
    text = page()
    for name in [*row(), *stats(), *peers(), *peer(), *LIMITS]:
        assert re.search(r'\b%s\b' % name, text), name


def test_the_page_knows_every_reason():
    """Those that the messages between library and agent can carry."""
    text = page()
    reasons = re.findall(r'WIRE_REASON_(\w+)[,\s]', (ROOT / 'core' / 'wire.h').read_text())
    for name in set(reasons) - {'NONE', 'COUNT'}:
        assert re.search(r'\b%s\b' % name.lower(), text), name


def completed(*words):
    """What bash would offer for the last of the words."""
    script = 'compopt() { :; }; source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _rdmactl; ' \
             'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(['bash', '-c', script, 'bash', COMPLETION, 'rdmactl', *words], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert done.stderr == ''
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which('shellcheck'), reason='shellcheck is not installed')
def test_the_completion_is_sound():
    done = subprocess.run(['shellcheck', '-s', 'bash', COMPLETION], stdout=subprocess.PIPE, text=True)
    assert done.stdout == ''


def test_commands_are_completed(ctl):
    names = [command['command'] for command in commands(ctl)]
    assert set(names) <= set(completed(''))
    assert completed('help', '') == names
    assert completed('re') == ['reload'] == completed('--json', 'rel') == completed('--runtime-dir', '/x', 'rel')


def test_options_are_completed(ctl):
    for command in commands(ctl):
        if command['command'] == 'help':
            continue
        offered = completed(command['command'], '--')
        for option in re.findall(r'--[a-z-]+', ctl('help', command['command']).stdout):
            assert option in offered, (command['command'], option)


def test_what_stands_after_a_command_is_completed(tmp_path):
    assert set(completed('limit', '')) >= {'%s=' % name for name in LIMITS}
    assert completed('limit', 'ring_memory_') == ['ring_memory_per_user=']
    assert '1' in completed('list', '--pid', '')
    assert completed('list', '--port', '') == [] == completed('top', '-d', '')
    assert 'true' in completed('run', 'tru') and 'true' in completed('run', '--debug', '--', 'tru')
    assert 'true' in completed('doctor', 'tru')
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    assert completed('run', 'cat', str(tmp_path / 'fi')) == [str(tmp_path / 'file')]
    assert completed('run', '--', 'cat', str(tmp_path / 'fi')) == [str(tmp_path / 'file')]
    assert completed('--runtime-dir', str(tmp_path / 'f')) == [str(tmp_path / 'folder')]
