"""Guests: this machine's own file system under another kernel, one that has RDMA in software.

A guest boots Debian's kernel in QEMU, emulated, since neither KVM nor modules of this machine's kernel can be counted
on. Its root is this machine's, read-only, under an overlay in memory: every program that is installed or built here is
there, too. It runs one script, and writes what comes of it into a directory of this machine. Nothing of it remains but
that.

The kernel comes from its package, which is downloaded and unpacked, not installed. `tests/setup.sh vm` installs the
rest.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

# What a guest needs to see this machine's files. RDMA comes later, from there.
BOOT_MODULES = ('virtio_pci', 'virtio_net', '9pnet_virtio', '9p', 'overlay')
PROGRAMS = ('qemu-system-x86_64', 'busybox', 'depmod', 'modprobe', 'cpio', 'dpkg', 'apt-get', 'apt-cache')
PACKAGE = 'linux-image-amd64'

RESULTS = '/run/results'    # in the guest
MODULES = '/run/modules'

INIT = '''#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /memory /root
/bin/busybox mount -t proc proc /proc
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
share() { /bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,$3 $1 $2; }
share host /host ro,cache=loose
/bin/busybox mount -t tmpfs memory /memory
/bin/busybox mkdir /memory/upper /memory/work
/bin/busybox mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root
/bin/busybox umount /proc
/bin/busybox mount -t proc proc /root/proc
/bin/busybox mount -t sysfs sys /root/sys
/bin/busybox mount -t devtmpfs dev /root/dev
/bin/busybox mkdir -p /root/dev/pts /root/dev/shm
/bin/busybox mount -t devpts devpts /root/dev/pts
/bin/busybox mount -t tmpfs shm /root/dev/shm
/bin/busybox mount -t tmpfs run /root/run
/bin/busybox mkdir -p /root/run/results /root/run/modules/lib
share results /root/run/results rw
share modules /root/run/modules/lib ro,cache=loose
exec /bin/busybox switch_root /root /bin/bash /run/results/init
'''

# What runs first on this machine's files in the guest.
START = f'''#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
exec </dev/null >/dev/console 2>&1
ip link set lo up
ulimit -l unlimited
/bin/bash {RESULTS}/script >{RESULTS}/out 2>&1
echo $? >{RESULTS}/status.new
mv {RESULTS}/status.new {RESULTS}/status
sync
echo o >/proc/sysrq-trigger
sleep 100
'''


class Unavailable(Exception):
    """Guests cannot be had here; the reason."""


def missing_programs():
    path = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    return [name for name in PROGRAMS if not shutil.which(name, path=path)]


@contextlib.contextmanager
def locked(directory):
    """Keeps others from preparing the same directory at the same time."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command, **more):
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=300, **more).stdout


def kernel_package():
    """The name of the package that the one without a version stands for."""
    for line in run(['apt-cache', 'depends', PACKAGE]).splitlines():
        kind, _, name = line.strip().partition(': ')
        if kind == 'Depends' and name.startswith('linux-image-'):
            return name
    raise Unavailable(f'no package {PACKAGE}; apt-get update?')


def download_kernel(directory):
    # apt-get leaves the name of the file to itself, and fetches as another user if it may.
    directory.mkdir()
    run(['apt-get', '-q', '-o', 'APT::Sandbox::User=root', 'download', kernel_package()], cwd=directory)
    package, = directory.glob('*.deb')
    run(['dpkg', '-x', package, directory])
    package.unlink()


class Kernel:
    """A kernel and its modules, unpacked below `cache` and made ready for booting."""

    def __init__(self, cache):
        missing = missing_programs()
        if missing:
            raise Unavailable(f'no {", ".join(missing)}; run tests/setup.sh vm')
        self.directory = Path(cache) / 'kernel'
        with locked(Path(cache)):
            if not self.directory.exists():
                self._prepare()
            make_initramfs(self.directory)
        self.image, = self.directory.glob('boot/vmlinuz-*')
        self.initramfs = self.directory / 'initramfs'
        self.modules = self.directory / 'lib'

    def _prepare(self):
        scratch = self.directory.with_name('kernel.new')
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            download_kernel(scratch)
            version, = os.listdir(scratch / 'lib/modules')
            run(['depmod', '-b', scratch, version])
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise Unavailable(f'cannot get a kernel for guests: {error} {getattr(error, "stdout", "") or ""}')
        scratch.rename(self.directory)


def modules_of(directory, version, names):
    """The files of these modules and of those that they need, in the order of loading."""
    files = []
    for name in names:
        for line in run(['modprobe', '-d', directory, '-S', version, '--show-depends', name]).splitlines():
            word, _, file = line.partition(' ')
            if word == 'insmod' and file.strip() not in files:
                files.append(file.strip())
    return files


def make_initramfs(directory):
    version, = os.listdir(directory / 'lib/modules')
    root = directory / 'root'
    shutil.rmtree(root, ignore_errors=True)
    (root / 'bin').mkdir(parents=True)
    (root / 'modules').mkdir()
    shutil.copy(shutil.which('busybox'), root / 'bin/busybox')
    files = modules_of(directory, version, BOOT_MODULES)
    for file in files:
        shutil.copy(file, root / 'modules')
    (root / 'modules/order').write_text('\n'.join(Path(file).name for file in files) + '\n')
    (root / 'init').write_text(INIT)
    (root / 'init').chmod(0o755)
    listing = '\n'.join(str(path.relative_to(root)) for path in root.rglob('*')) + '\n'
    with open(directory / 'initramfs', 'wb') as archive:
        subprocess.run(['cpio', '-o', '-H', 'newc', '--quiet'], input=listing.encode(), stdout=archive, cwd=root,
                       check=True)
    shutil.rmtree(root)


def read_prompt(monitor):
    """Reads what QEMU's monitor says until it wants a command. Closed before, it would forget the last one."""
    said = b''
    while not said.endswith(b'(qemu) '):
        piece = monitor.recv(4096)
        assert piece, said
        said += piece


def clear(results):
    """Empties the directory for the results of another guest."""
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)


class Guest:
    """One guest. It runs `script` (bash) and powers off. `net` is QEMU's -netdev without its id, for a second card."""

    def __init__(self, kernel, results, script, net=None, memory='3G', cpus=2, mac='52:54:00:00:00:01'):
        self.results = Path(results)
        self.results.mkdir(parents=True, exist_ok=True)
        self.console = self.results / 'console'
        for name in 'status', 'out', 'console', 'monitor':
            (self.results / name).unlink(missing_ok=True)
        (self.results / 'init').write_text(START)
        (self.results / 'script').write_text(script)
        command = ['qemu-system-x86_64', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', cpus, '-m', memory,
                   '-display', 'none', '-no-reboot', '-nic', 'none', '-monitor', 'unix:monitor,server=on,wait=off',
                   '-serial', f'file:{self.console}',
                   '-kernel', kernel.image, '-initrd', kernel.initramfs,
                   '-append', 'console=ttyS0 quiet panic=-1 tsc=reliable clocksource=tsc mitigations=off',
                   *self._share('host', '/', ',readonly=on'), *self._share('results', self.results),
                   *self._share('modules', kernel.modules, ',readonly=on')]
        if net:
            command += ['-netdev', f'{net},id=net0', '-device', f'virtio-net-pci,netdev=net0,mac={mac},host_mtu=4200']
        self.log = open(self.results / 'qemu', 'w')
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=subprocess.STDOUT, cwd=self.results)

    def set_wire(self, whole):
        """Cuts the wire of its network card, or mends it."""
        # The path of the socket may be too long for its address.
        directory = os.open(self.results, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as monitor:
                monitor.settimeout(10)
                monitor.connect(f'/proc/self/fd/{directory}/monitor')
                read_prompt(monitor)
                monitor.sendall(f'set_link net0 {"on" if whole else "off"}\n'.encode())
                read_prompt(monitor)    # it has been done
        finally:
            os.close(directory)

    @staticmethod
    def _share(tag, path, more=''):
        return ['-virtfs', f'local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}']

    def read(self, name):
        path = self.results / name
        return path.read_text(errors='replace') if path.exists() else ''

    def wait(self, seconds):
        """Returns the script's exit status; None if there was none in that time. The guest has ended then."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline and not self.read('status'):
            time.sleep(0.1)
        status = self.read('status')
        try:
            self.process.wait(5 if status else 0.1)
        except subprocess.TimeoutExpired:
            pass
        self.end()
        return int(status) if status else None

    def end(self):
        """As if its power went."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
