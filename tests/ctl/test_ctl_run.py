"""rdmactl run: the environment that a program gets, its exit code, and the warnings."""

import os
import shutil
import signal
import subprocess

import pytest
from rdmactl import Ctl

VARIABLE = 'RDMA_PRELOAD_LIBRARY'


@pytest.fixture
def run(ctl, fake, library):
    """`rdmactl run` where everything is as it should be."""
    def go(*arguments, env=None, **options):
        return ctl('run', *arguments, env={VARIABLE: str(library), **(env or {})}, **options)
    return go


def variables(done):
    return dict(line.split('=', 1) for line in done.stdout.splitlines() if '=' in line)


def test_the_environment(run, ctl, library):
    done = run('env')
    got = variables(done)
    assert done.stderr == '' and done.returncode == 0
    assert got['LD_PRELOAD'] == str(library)
    assert got['RDMA_AGENT_DIR'] == str(ctl.directory)
    assert 'RDMA_AGENT_DEBUG' not in got
    assert set(got) - set(ctl.environment()) - {VARIABLE} == {'LD_PRELOAD'}


def test_the_library_is_really_loaded(run, library):
    assert str(library) in run('cat', '/proc/self/maps').stdout


@pytest.mark.parametrize('arguments', [['--debug', 'env'], ['--debug', '--', 'env'], ['--json', '--debug', '--', 'env']])
def test_debug(run, arguments):
    assert variables(run(*arguments))['RDMA_AGENT_DEBUG'] == '1'


def test_the_directory_becomes_absolute(run, ctl):
    done = run('--runtime-dir', ctl.directory.name, 'env', cwd=ctl.directory.parent)
    assert variables(done)['RDMA_AGENT_DIR'] == str(ctl.directory)
    done = run('--runtime-dir', '%s//' % ctl.directory, 'env')
    assert variables(done)['RDMA_AGENT_DIR'] == str(ctl.directory)


def test_the_programs_arguments_are_its_own(run):
    wanted = ['--json', '-x', '--', '--help', '', 'a b', '--runtime-dir']
    for dashes in [], ['--']:
        done = run(*dashes, 'printf', '%s|', *wanted)
        assert done.stdout == ''.join('%s|' % one for one in wanted)


@pytest.mark.parametrize('before, after', [
    ('', '{library}'),
    ('/lib/other.so', '{library}:/lib/other.so'),
    ('/a.so /b.so', '{library}:/a.so /b.so'),
    ('{library}', '{library}'),
    ('/lib/other.so:{library}', '/lib/other.so:{library}'),
    ('/lib/other.so {library} /lib/more.so', '/lib/other.so {library} /lib/more.so'),
    ('{library}x', '{library}:{library}x'),
    ('/x{library}', '{library}:/x{library}'),
    ('{library.parent}', '{library}:{library.parent}'),
])
def test_an_existing_preload_is_kept(run, library, before, after):
    # A sanitizer would not have anything come before it, not even this library, which is harmless.
    tolerant = os.environ.get('ASAN_OPTIONS', '') + ':verify_asan_link_order=0'
    done = run('env', env={'LD_PRELOAD': before.format(library=library), 'ASAN_OPTIONS': tolerant})
    assert variables(done)['LD_PRELOAD'] == after.format(library=library)


@pytest.mark.parametrize('command, code', [
    (['true'], 0), (['sh', '-c', 'exit 7'], 7), (['nonesuch'], 127), (['/nonesuch/program'], 127), (['/tmp'], 126),
    (['/etc/passwd'], 126), (['sh', '-c', 'kill -TERM $$'], -signal.SIGTERM),
])
def test_exit_codes(run, command, code):
    done = run('--', *command)
    assert done.returncode == code
    assert ('cannot run "%s"' % command[0] in done.stderr) == (code in (126, 127))


def test_the_program_replaces_rdmactl(ctl, fake, library):
    process = ctl.start('run', 'sh', '-c', 'echo $$', env={VARIABLE: str(library)})
    assert int(process.communicate(timeout=20)[0]) == process.pid


def test_nothing_is_left_open(run):
    """The program has the descriptors that rdmactl was given, and its own of /proc/self/fd."""
    assert run('ls', '/proc/self/fd').stdout.split() == ['0', '1', '2', '3']


def test_without_an_agent_the_program_runs(ctl, library):
    done = ctl('run', 'sh', '-c', 'echo here', env={VARIABLE: str(library)})
    assert (done.stdout, done.returncode) == ('here\n', 0)
    assert done.stderr.count('\n') == 1
    assert done.stderr.startswith('rdmactl run: connections stay TCP: no agent answers on %s/' % ctl.directory)


def test_an_agent_that_denies_its_status_is_an_agent(run, fake):
    fake.answers.pop('status')
    assert run('true').stderr == ''


def test_an_agent_that_hangs_is_not_waited_for_long(run, fake):
    fake.raw = lambda connection, line: fake.wait(60)
    done = run('echo', 'here')
    assert done.stdout == 'here\n' and 'did not answer within 1 s' in done.stderr


@pytest.mark.parametrize('path, complaint', [
    ('/nonesuch/lib.so', 'the preload library is not there: looked for /nonesuch/lib.so ($RDMA_PRELOAD_LIBRARY)'),
    ('/tmp', 'the preload library /tmp cannot be used'),
])
def test_without_a_library_the_program_runs(run, path, complaint):
    done = run('env', env={VARIABLE: path})
    assert done.returncode == 0 and 'LD_PRELOAD' not in variables(done)
    assert complaint in done.stderr and done.stderr.count('\n') == 1


def test_a_library_path_that_cannot_be_preloaded(run, library, tmp_path):
    for name in 'a b', 'a:b':
        (tmp_path / name).mkdir()
        shutil.copy(library, tmp_path / name / 'lib.so')
        done = run('env', env={VARIABLE: str(tmp_path / name / 'lib.so')})
        assert 'LD_PRELOAD' not in variables(done) and 'contains a space or a colon' in done.stderr


def test_a_relative_library_becomes_absolute(run, library):
    done = run('env', env={VARIABLE: library.name}, cwd=library.parent)
    assert variables(done)['LD_PRELOAD'] == str(library)


class Installed(Ctl):
    """A copy of rdmactl elsewhere, which finds its library by itself."""

    def __init__(self, directory, place):
        super().__init__(directory)
        self.program = place / 'rdmactl'
        place.mkdir()
        shutil.copy(Ctl.program, self.program)


def test_where_the_library_is_looked_for(runtime_dir, fake, library, tmp_path):
    """Beside the program as in a build tree; ../lib/rdma-agent as installed; the former wins."""
    ctl = Installed(runtime_dir, tmp_path / 'bin')
    installed = tmp_path / 'lib' / 'rdma-agent' / 'librdma-preload.so'
    beside = tmp_path / 'bin' / 'librdma-preload.so'
    for path in installed, beside:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, path)
        assert variables(ctl('run', 'env'))['LD_PRELOAD'] == str(path)
    assert variables(ctl('run', 'env', env={VARIABLE: str(library)}))['LD_PRELOAD'] == str(library)


def test_all_the_places_are_named(runtime_dir, fake, tmp_path):
    ctl = Installed(runtime_dir, tmp_path / 'bin')
    done = ctl('run', 'true')
    if not done.stderr:
        pytest.skip('the library is installed here')
    assert str(tmp_path / 'bin' / 'librdma-preload.so') in done.stderr
    assert 'lib/rdma-agent/librdma-preload.so' in done.stderr and done.returncode == 0


def test_a_static_program(run, compile_c):
    program = compile_c('static', 'int main(void) { return 5; }', '-static')
    done = run(program)
    assert done.returncode == 5 and done.stderr.count('\n') == 1
    assert 'connections stay TCP: %s is statically linked' % program in done.stderr


def test_a_script_is_as_its_interpreter(run, compile_c, tmp_path):
    interpreter = compile_c('static', 'int main(void) { return 5; }', '-static')
    script = tmp_path / 'script'
    script.write_text('#!%s\n' % interpreter)
    script.chmod(0o755)
    done = run(script)
    assert done.returncode == 5 and '%s is statically linked' % interpreter in done.stderr
    script.write_text('#!/bin/sh\nexit 6\n')
    done = run(script)
    assert (done.returncode, done.stderr) == (6, '')


def test_a_script_without_an_interpreter_line(run, tmp_path):
    script = tmp_path / 'script'
    script.write_text('exit 6\n')
    script.chmod(0o755)
    done = run(script)
    assert (done.returncode, done.stderr) == (6, '')


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to become another user')
def test_setuid_matters_to_others_than_the_owner(ctl, fake, library, compile_c):
    program = compile_c('setuid', 'int main(void) { return 5; }')
    program.chmod(0o4755)
    env = {VARIABLE: str(library)}
    assert ctl('run', program, env=env).stderr == ''
    if subprocess.run([Ctl.program, 'version'], user=65534, stdout=subprocess.DEVNULL).returncode != 0:
        pytest.skip('other users cannot reach the build')
    done = ctl('run', program, env=env, user=65534, group=65534, extra_groups=[])
    assert done.returncode == 5 and 'is setuid or setgid' in done.stderr
    program.write_text('#!/bin/sh\nexit 6\n')      # of which the kernel takes no such notice
    program.chmod(0o4755)
    done = ctl('run', program, env=env, user=65534, group=65534, extra_groups=[])
    assert (done.returncode, done.stderr) == (6, '')
