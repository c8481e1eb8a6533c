"""rdmactl doctor: each finding, on a healthy host and on one that is not."""

import json
import os
import platform
import re
import shutil
import struct
import subprocess

import pytest
from fake_agent import LIMITS, Error, status

VARIABLE = 'RDMA_PRELOAD_LIBRARY'
HOST = ['agent', 'version', 'owner', 'clients', 'policy', 'namespace', 'library', 'library', 'kernel', 'tcp', 'memfd',
        'descriptors', 'memory', 'cpus', 'devices']
EM_FOREIGN = 22     # s390


class Sysfs:
    def __init__(self, path):
        self.path = path
        path.mkdir()

    def write(self, name, text):
        path = self.path / 'class' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n')

    def add_port(self, device, port=1, state='4: ACTIVE', gids=()):
        where = f'infiniband/{device}/ports/{port}'
        self.write(f'{where}/state', state)
        self.write(f'{where}/link_layer', 'Ethernet')
        for i, gid in enumerate(gids):
            self.write(f'{where}/gids/{i}', gid)

    def load_modules(self):
        self.write('infiniband_verbs/uverbs0/dev', '231:192')
        self.write('misc/rdma_cm/dev', '10:60')


@pytest.fixture
def sysfs(tmp_path):
    """A sysfs without RDMA, whatever this host has."""
    return Sysfs(tmp_path / 'sys')


@pytest.fixture
def doctor(ctl, fake, library, sysfs):
    """`rdmactl doctor` on a healthy host: a function that returns the findings, after checking the exit code."""
    def examine(*arguments, env=None, **options):
        own = {VARIABLE: str(library), 'SYSFS_PATH': str(sysfs.path)}
        done = ctl('doctor', '--json', *arguments, env={**own, **(env or {})}, **options)
        assert done.stderr == ''
        report = json.loads(done.stdout)
        assert set(report) == {'ok', 'checks'}
        assert report['ok'] == (done.returncode == 0) == ('fail' not in [one['status'] for one in report['checks']])
        return report['checks']
    return examine


def about(findings, check):
    return [(one['status'], one['what']) for one in findings if one['check'] == check]


def test_a_healthy_host(doctor):
    findings = doctor()
    assert [one['check'] for one in findings] == HOST
    assert [one for one in findings if one['status'] != 'ok'] == []
    assert {one['cure'] for one in findings} == {None}


def test_each_finding_is_a_line(ctl, fake, library):
    fake.answers['status'] = status(version='0.0.9', policy={'upgrade': {'enabled': False}})
    done = ctl('doctor', 'nonesuch', env={VARIABLE: str(library)})
    assert done.returncode == 1 and done.stderr == ''
    lines = done.stdout.splitlines()
    assert len(lines) == len(HOST) + 1 - 1      # and the program, but no rings to compare with the memory
    for line in lines:
        assert re.fullmatch(r'(ok  |warn|fail)  [^ ].*', line)
        assert line.startswith('ok') == ('  - ' not in line)
    assert 'warn  the agent is version 0.0.9, rdmactl is 0.1.0  - restart the agent, or install one version of ' \
           'everything' in lines


def test_no_agent(doctor, ctl, fake):
    fake.close()
    findings = doctor()
    assert [one['check'] for one in findings] == ['agent'] + HOST[6:12] + ['cpus', 'devices']
    assert findings[0]['status'] == 'fail' and 'start one with rdma-agent' in findings[0]['cure']


def test_an_agent_that_gives_no_answer(doctor, fake):
    fake.answers['status'] = Error(-32000, 'out of order')
    findings = doctor()
    assert about(findings, 'agent') == [('fail', 'out of order')]
    assert about(findings, 'owner')[0][0] == 'ok'


def test_who_runs_the_agent(doctor, ctl, fake):
    assert about(doctor(), 'owner') == [('ok', 'the agent runs as root (uid 0)')] or os.getuid() != 0


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to become another user')
def test_an_agent_of_another_user(doctor, runtime_dir, fake, library):
    """That user would get our sockets."""
    fake.close()
    for name in 'control.sock', 'agent.sock':
        (runtime_dir / name).unlink()
    runtime_dir.chmod(0o777)
    text = 'import sys, time; sys.path.insert(0, "."); from fake_agent import FakeAgent; ' \
           'agent = FakeAgent(sys.argv[1]); print("up", flush=True); sys.stdin.read()'
    with subprocess.Popen(['/usr/bin/env', 'python3', '-B', '-c', text, runtime_dir], user=12345, group=12345,
                          extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          cwd=os.path.dirname(__file__)) as agent:
        assert agent.stdout.readline() == 'up\n'
        findings = doctor()
        agent.stdin.close()
    assert about(findings, 'owner') == [('warn', 'the agent runs as unknown (uid 12345)')]


def test_programs_cannot_reach_the_agent(doctor, runtime_dir):
    (runtime_dir / 'agent.sock').unlink()
    state, what = about(doctor(), 'clients')[0]
    assert state == 'fail' and '/agent.sock: No such file' in what


def test_switched_off(doctor, fake):
    fake.answers['status'] = status(policy={'upgrade': {'enabled': False}})
    assert about(doctor(), 'policy')[0][0] == 'fail'


@pytest.mark.parametrize('namespaces, findings', [
    (['self'], ['ok']), (['/proc/self/ns/net'], ['ok']), (['/etc/passwd', 'self'], ['ok']), (['/etc/passwd'], ['fail']),
    (['/nonesuch'], []), (['/etc/passwd', '/nonesuch'], []), ([], ['fail']), ([7], []), (None, []),
])
def test_namespaces(doctor, fake, namespaces, findings):
    """Any file but the right one stands for another namespace; of what cannot be told nothing is said."""
    fake.answers['status'] = status(namespaces=namespaces)
    assert [state for state, _ in about(doctor(), 'namespace')] == findings


def test_an_agent_that_tells_little(doctor, fake):
    fake.answers['status'] = {}
    findings = doctor()
    assert [one['check'] for one in findings if one['status'] != 'ok'] == ['version']


@pytest.mark.parametrize('rings, state', [(1 << 20, 'ok'), (1 << 60, 'warn')])
def test_ring_memory(doctor, fake, rings, state):
    fake.answers['status'] = status(policy={'limits': dict(LIMITS, ring_memory=rings)})
    assert about(doctor(), 'memory')[0][0] == state


# ---- RDMA

PEERS = {'peers': [{'name': 'b'}], 'rdma': {'registered_memory': 1 << 30}}
GIDS = ['fe80:0000:0000:0000:0202:03ff:fe04:0506', '0000:0000:0000:0000:0000:ffff:0a09:0001',
        '0000:0000:0000:0000:0000:ffff:0a09:0001', '0000:0000:0000:0000:0000:ffff:0a09:000b',
        '0000:0000:0000:0000:0000:0000:0000:0000']


def test_no_device(doctor, fake):
    assert about(doctor(), 'devices') == [('ok', 'no RDMA device, and no peers that would need one')]
    fake.answers['status'] = status(policy=PEERS)
    finding, = [one for one in doctor() if one['check'] == 'devices']
    assert finding['status'] == 'fail' and 'rdma link add rxe0 type rxe' in finding['cure']


def test_a_device(doctor, fake, sysfs):
    fake.answers['status'] = status(policy=PEERS)
    sysfs.add_port('rxe0', gids=GIDS)
    sysfs.load_modules()
    findings = doctor()
    assert about(findings, 'devices') == [
        ('ok', 'RDMA device rxe0, port 1 (Ethernet) is active, at fe80::202:3ff:fe04:506 10.9.0.1 10.9.0.11')]
    assert about(findings, 'modules') == [('ok', 'programs can use RDMA devices (ib_uverbs, rdma_ucm)')]
    assert about(findings, 'memlock')[0][1].endswith('1.0 GiB that connections with other hosts may take') \
        or os.getuid() != 0


def test_ports_that_are_of_no_use(doctor, sysfs):
    sysfs.add_port('mlx5_0', 1, '1: DOWN', GIDS)
    sysfs.add_port('mlx5_0', 2)
    sysfs.load_modules()
    assert sorted(about(doctor(), 'devices')) == [
        ('warn', 'RDMA device mlx5_0, port 1 (Ethernet) is DOWN'),
        ('warn', 'RDMA device mlx5_0, port 2 (Ethernet) has no address')]


@pytest.mark.parametrize('peers, state', [({}, 'ok'), (PEERS, 'fail')])
def test_missing_modules(doctor, fake, sysfs, peers, state):
    fake.answers['status'] = status(policy=peers)
    sysfs.add_port('rxe0', gids=GIDS)
    assert [(found, 'ib_uverbs' in what, 'rdma_ucm' in what) for found, what in about(doctor(), 'modules')] == [
        (state, True, False), (state, False, True)]


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to give up its privileges')
def test_little_locked_memory(runtime_dir, ctl, fake, doctor):
    """The agent is asked about in /proc: here it is a process that may lock little, and has no privilege to do more."""
    fake.close()
    for name in 'control.sock', 'agent.sock':
        (runtime_dir / name).unlink()
    runtime_dir.chmod(0o777)
    text = 'import json, sys; sys.path.insert(0, "."); from fake_agent import FakeAgent, status; ' \
           'agent = FakeAgent(sys.argv[1]); agent.answers["status"] = status(policy=json.loads(sys.argv[2])); ' \
           'print("up", flush=True); sys.stdin.read()'
    with subprocess.Popen(['prlimit', '--memlock=65536', '/usr/bin/env', 'python3', '-B', '-c', text, runtime_dir,
                           json.dumps(PEERS)], user=65534, group=65534, extra_groups=[], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, cwd=os.path.dirname(__file__)) as agent:
        assert agent.stdout.readline() == 'up\n'
        findings = doctor()
        agent.stdin.close()
    assert about(findings, 'memlock') == [
        ('warn', 'connections with other hosts may take 1.0 GiB of locked memory, and the agent may lock 64 KiB')]


# ---- the library

def test_no_library(doctor):
    findings = doctor(env={VARIABLE: '/nonesuch.so'})
    assert about(findings, 'library') == [
        ('fail', 'the preload library is not there; looked for /nonesuch.so ($RDMA_PRELOAD_LIBRARY)')]


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to become another user')
def test_a_library_that_may_not_be_read(ctl, fake, library, runtime_dir):
    if subprocess.run([ctl.program, 'version'], user=65534, stdout=subprocess.DEVNULL).returncode != 0:
        pytest.skip('other users cannot reach the build')
    secret = runtime_dir / 'lib.so'
    shutil.copy(library, secret)
    secret.chmod(0o600)
    done = ctl('doctor', env={VARIABLE: str(secret)}, user=65534, group=65534, extra_groups=[])
    assert 'fail  the preload library %s cannot be used: Permission denied' % secret in done.stdout


def test_a_library_that_the_loader_refuses(doctor, tmp_path):
    garbage = tmp_path / 'lib.so'
    garbage.write_bytes(b'garbage' * 1000)
    state, what = about(doctor(env={VARIABLE: str(garbage)}), 'library')[1]
    assert state == 'fail' and 'does not load %s: ERROR: ld.so: ' % garbage in what and 'invalid ELF header' in what


def test_a_library_that_ends_the_program(doctor, compile_c):
    bad = compile_c('ends.so', '#include <unistd.h>\n__attribute__((constructor)) static void f(void)'
                    '{ write(2, "no way\\n", 7); _exit(3); }', '-shared', '-fPIC')
    assert about(doctor(env={VARIABLE: str(bad)}), 'library')[1] == ('fail', 'a program with the library fails: no way')


def test_a_library_that_complains(doctor, compile_c):
    loud = compile_c('loud.so', '#include <unistd.h>\n__attribute__((constructor)) static void f(void)'
                     '{ write(2, "listen\\n", 7); }', '-shared', '-fPIC')
    assert about(doctor(env={VARIABLE: str(loud)}), 'library')[1] == (
        'warn', 'programs with the library complain: listen')


def test_a_library_that_hangs(doctor, compile_c):
    slow = compile_c('slow.so', '#include <unistd.h>\n__attribute__((constructor)) static void f(void)'
                     '{ sleep(60); }', '-shared', '-fPIC')
    assert about(doctor(env={VARIABLE: str(slow)}), 'library')[1] == (
        'fail', 'a program with the library did not end within 5 s')


def limited(ctl, library, *limiter):
    """The doctor, started by another program that takes something from it."""
    done = subprocess.run([*limiter, ctl.program, 'doctor', '--json'], stdout=subprocess.PIPE, timeout=30,
                          env=ctl.environment({VARIABLE: str(library)}))
    return json.loads(done.stdout)['checks']


def test_few_descriptors(ctl, fake, library):
    assert about(limited(ctl, library, 'prlimit', '--nofile=240'), 'descriptors') == [
        ('warn', 'programs may open 240 descriptors, enough for 20 accelerated connections each')]


def test_one_cpu(ctl, fake, library):
    assert about(limited(ctl, library, 'taskset', '1'), 'cpus')[0][1].startswith('one CPU')


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to make a network namespace')
def test_another_network_namespace(ctl, fake, library):
    """Its loopback interface is down, and the agent does not serve it."""
    findings = limited(ctl, library, 'unshare', '--net')
    assert about(findings, 'namespace')[0][0] == 'fail'
    assert about(findings, 'tcp')[0][0] == 'warn' and 'loopback' in about(findings, 'tcp')[0][1]


# Refuses one system call with ENOSYS or EPERM, and runs the rest of its arguments.
FILTER = r'''
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
int main(int argc, char **argv)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)atoi(argv[1]), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        return 77;
    execv(argv[2], argv + 2);
    return 78;
}
'''


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='has the number of a system call of x86-64')
def test_no_memfd(ctl, fake, library, compile_c):
    findings = limited(ctl, library, compile_c('filter', FILTER), '319')
    assert about(findings, 'memfd') == [
        ('fail', 'sealed shared memory (memfd_create) does not work: Operation not permitted')]


# Programs

def patched(tmp_path, offset, value):
    """A copy of `true` with other bytes in its ELF header."""
    image = bytearray(open('/bin/true', 'rb').read())
    image[offset:offset + len(value)] = value
    return write(tmp_path / 'program', bytes(image))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o755)
    return path


def of_program(doctor, program, **options):
    return about(doctor(program, **options), 'program')


def test_an_ordinary_program(doctor):
    assert of_program(doctor, '/bin/true') == [('ok', '/bin/true can be preloaded')]
    assert of_program(doctor, 'true')[0][0] == 'ok'


@pytest.mark.parametrize('name', ['/nonesuch', 'nonesuch', '', '/bin/true/x', './true'])
def test_a_missing_program(doctor, name):
    assert of_program(doctor, name, cwd='/') == [('fail', 'there is no program "%s"' % name)]


@pytest.mark.parametrize('name', ['/tmp', '/etc/passwd'])
def test_what_is_no_program(doctor, name):
    assert of_program(doctor, name) == [('fail', '"%s" cannot be run: Permission denied' % name)]


def test_a_static_program(doctor, compile_c):
    for option in '-static', '-static-pie':
        program = compile_c('static', 'int main(void) { return 0; }', option)
        assert of_program(doctor, program) == [
            ('fail', '%s is statically linked, so no library can be preloaded' % program)]


@pytest.mark.parametrize('section', ['.note.go.buildid', '.go.buildinfo'])
@pytest.mark.parametrize('option', ['-static', '-pie'])
def test_a_go_program(doctor, compile_c, section, option):
    program = compile_c('go', 'char id[4] __attribute__((section("%s"))) = "go"; int main(void) { return id[3]; }'
                        % section, option)
    assert of_program(doctor, program) == [
        ('fail', '%s is a Go program, which calls the kernel without the C library' % program)]


def test_a_setuid_program(doctor, tmp_path):
    program = shutil.copy('/bin/true', tmp_path / 'program')
    for mode in 0o4755, 0o2755, 0o6755:
        os.chmod(program, mode)
        assert of_program(doctor, program) == [
            ('fail', '%s is setuid or setgid, for which the loader ignores LD_PRELOAD' % program)]
    os.chmod(program, 0o2745)       # no group execution: a mark, no privilege
    assert of_program(doctor, program)[0][0] == 'ok'


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to give capabilities')
def test_a_program_with_capabilities(doctor, tmp_path):
    program = shutil.copy('/bin/true', tmp_path / 'program')
    capability = struct.pack('<IIIII', 0x02000001, 1 << 10, 0, 0, 0)    # CAP_NET_BIND_SERVICE
    try:
        os.setxattr(program, 'security.capability', capability)
    except OSError as error:
        pytest.skip('the file system holds no capabilities: %s' % error)
    assert of_program(doctor, program) == [
        ('fail', '%s has file capabilities, for which the loader ignores LD_PRELOAD' % program)]


def test_a_32_bit_program(doctor, tmp_path):
    program = patched(tmp_path, 4, b'\x01')
    assert of_program(doctor, program) == [
        ('fail', '%s is a 32-bit program, which cannot load the 64-bit library' % program)]


@pytest.mark.parametrize('offset, value', [(5, b'\x02'), (18, struct.pack('<H', EM_FOREIGN))])
def test_a_program_for_another_processor(doctor, tmp_path, offset, value):
    program = patched(tmp_path, offset, value)
    assert of_program(doctor, program) == [
        ('fail', '%s is built for another processor than the library' % program)]


def test_a_program_of_another_c_library(doctor, compile_c):
    program = compile_c('musl', 'int main(void) { return 0; }', '-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1')
    assert of_program(doctor, program) == [
        ('fail', '%s is linked with another C library than glibc, which cannot load this library' % program)]


def test_a_script(doctor, tmp_path):
    script = write(tmp_path / 'script', '#! /bin/sh  -e\nexit 0\n')
    assert of_program(doctor, script) == [('ok', '%s is a script, run by /bin/sh -e' % script),
                                          ('ok', '/bin/sh can be preloaded')]


@pytest.mark.parametrize('line', ['/usr/bin/env NAME', '/usr/bin/env -S A=b NAME -u'])
def test_a_script_of_an_interpreter_found_by_env(doctor, tmp_path, line):
    interpreter = write(tmp_path / 'interpreter', open('/bin/true', 'rb').read())
    script = write(tmp_path / 'script', '#!%s\n' % line.replace('NAME', 'interpreter'))
    found = of_program(doctor, script, env={'PATH': '%s:%s' % (tmp_path, os.environ['PATH'])})
    assert found[1] == ('ok', '%s can be preloaded' % interpreter)


def test_a_script_whose_interpreter_is_not_there(doctor, tmp_path):
    script = write(tmp_path / 'script', '#!/nonesuch/python\n')
    assert of_program(doctor, script)[1] == ('fail', 'there is no program "/nonesuch/python"')


def test_a_script_that_is_its_own_interpreter(doctor, tmp_path):
    path = tmp_path / 'script'
    assert len(of_program(doctor, write(path, '#!%s\n' % path))) == 5


def test_a_setuid_script_is_none(doctor, tmp_path):
    script = write(tmp_path / 'script', '#!/bin/sh\n')
    script.chmod(0o4755)
    assert [state for state, _ in of_program(doctor, script)] == ['ok', 'ok']


@pytest.mark.parametrize('content', ['', 'exit 0\n', '#', b'MZ\x90\x00'])
def test_neither_program_nor_script(doctor, tmp_path, content):
    state, what = of_program(doctor, write(tmp_path / 'program', content))[0]
    assert state == 'warn' and 'neither an ELF program nor a script' in what


@pytest.mark.parametrize('content', ['#!\n', '#!', '#!   \n'])
def test_a_script_that_names_no_interpreter(doctor, tmp_path, content):
    program = write(tmp_path / 'program', content)
    assert of_program(doctor, program) == [('fail', '%s names no interpreter in its "#!" line' % program)]


IMAGE = open('/bin/true', 'rb').read()


@pytest.mark.parametrize('content', [
    IMAGE[:20], IMAGE[:64], IMAGE[:100],
    IMAGE[:32] + b'\xff' * 8 + IMAGE[40:],          # program headers beyond any file
    IMAGE[:54] + b'\x07\x00' + IMAGE[56:],          # program headers of another size
    IMAGE[:56] + b'\xff\xff' + IMAGE[58:],          # more of them than there are
], ids=range(6))
def test_a_damaged_program(doctor, tmp_path, content):
    program = write(tmp_path / 'program', content)
    assert of_program(doctor, program) == [('fail', '%s is damaged: its ELF headers make no sense' % program)]


@pytest.mark.parametrize('content', [
    IMAGE[:40] + b'\xff' * 8 + IMAGE[48:],          # section headers beyond any file
    IMAGE[:58] + b'\x01\x00' + IMAGE[60:],          # section headers of another size
    IMAGE[:60] + b'\x00\x00' + IMAGE[62:],          # none of them
    IMAGE[:62] + b'\xff\xff',                       # names in none of them
], ids=range(4))
def test_damaged_sections_do_not_matter(doctor, tmp_path, content):
    program = write(tmp_path / 'program', content + IMAGE[len(content):])
    assert of_program(doctor, program) == [('ok', '%s can be preloaded' % program)]


def test_nonsense_in_a_section_header(doctor, tmp_path):
    """The name and the size of the last one, which here holds the names of all."""
    begin, = struct.unpack_from('<Q', IMAGE, 40)
    count, names = struct.unpack_from('<HH', IMAGE, 60)
    assert names == count - 1
    for field, value in (0, b'\xff\xff\xff\x7f'), (32, b'\xff' * 8), (32, bytes(8)), (24, b'\xff' * 8):
        offset = begin + names * 64 + field
        program = write(tmp_path / 'program', IMAGE[:offset] + value + IMAGE[offset + len(value):])
        assert of_program(doctor, program) == [('ok', '%s can be preloaded' % program)]


def test_nonsense_in_every_byte_of_the_header(ctl, fake, library, tmp_path):
    """Whatever the file says, there is an answer."""
    program = tmp_path / 'program'
    for offset in range(16, 64 + 56 * 13, 7):
        write(program, IMAGE[:offset] + b'\xff' * 4 + IMAGE[offset + 4:])
        done = ctl('doctor', '--json', program, env={VARIABLE: '/nonesuch'})
        assert done.returncode == 1 and about(json.loads(done.stdout)['checks'], 'program')


@pytest.mark.skipif(os.getuid() != 0, reason='takes root to become another user')
def test_a_program_that_may_not_be_read(ctl, fake, library, runtime_dir):
    if subprocess.run([ctl.program, 'version'], user=65534, stdout=subprocess.DEVNULL).returncode != 0:
        pytest.skip('other users cannot reach the build')
    program = write(runtime_dir / 'program', IMAGE)
    program.chmod(0o711)
    done = ctl('doctor', program, env={VARIABLE: str(library)}, user=65534, group=65534, extra_groups=[])
    assert 'warn  %s cannot be examined: Permission denied' % program in done.stdout
