"""What a run was measured on: facts about the machine, and how far apart the two CPUs are."""

import datetime
import os
import platform
import re
import subprocess
import time
from pathlib import Path

# Above this round trip of a cache line the CPUs are so far apart that ratios to TCP say little.
FAR_NS = 170


def _first(path, pattern):
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip() if found else None


def _read(path):
    return _first(path, r'^(.*)$')


def _revision(root):
    try:
        done = subprocess.run(['git', '-C', str(root), 'describe', '--always', '--dirty'], capture_output=True,
                              text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def facts(root):
    return {
        'time': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'revision': _revision(root),
        'processor': _first('/proc/cpuinfo', r'^(?:model name|Processor)\s*: (.*)$') or platform.machine(),
        'cpus': os.cpu_count(),
        'virtual': bool(_first('/proc/cpuinfo', r'^flags\s*:.*\b(hypervisor)\b')),
        'memory_gib': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2 ** 30, 1),
        'kernel': platform.release(),
        'system': _first('/etc/os-release', r'^PRETTY_NAME="?([^"\n]*)'),
        'clock': _read('/sys/devices/system/clocksource/clocksource0/current_clocksource'),
        'idle_driver': _read('/sys/devices/system/cpu/cpuidle/current_driver'),
        'load': os.getloadavg()[0],
        'autogroup': _read('/proc/sys/kernel/sched_autogroup_enabled'),
    }


def choose_cpus(text=None):
    """Two CPUs: those that `text` names ("0,1"), or the first two that we may use. The same twice if there is one."""
    usable = sorted(os.sched_getaffinity(0))
    if text:
        chosen = [int(word) for word in text.split(',')]
        if len(chosen) != 2 or not set(chosen) <= set(usable):
            raise ValueError('--cpus %s: expected two of the CPUs %s' % (text, ','.join(map(str, usable))))
        return chosen
    return [usable[0], usable[1] if len(usable) > 1 else usable[0]]


# ---- what else ran

TICK_MS = 1000 / os.sysconf('SC_CLK_TCK')


def _processes():
    """The parent and the CPU time in ms, reaped children included, of every process: {pid: (parent, ms)}."""
    found = {}
    for entry in Path('/proc').iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / 'stat').read_text(errors='replace').rpartition(')')[2].split()
            except OSError:
                continue
            found[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15])) * TICK_MS
    return found


def _used_by(root):
    """CPU time in ms of a process and of all its descendants, those that ended included."""
    processes = _processes()
    children = {}
    for pid, (parent, _) in processes.items():
        children.setdefault(parent, []).append(pid)
    total, pending = 0, [root]
    while pending:
        pid = pending.pop()
        total += processes.get(pid, (0, 0))[1]
        pending += children.get(pid, [])
    return total


class Watch:
    """What the machine did, other than for us, since the watch was made."""

    def __init__(self):
        self.begin = time.monotonic()
        self.before = self._now()

    @staticmethod
    def _now():
        fields = [int(field) for field in _first('/proc/stat', r'^cpu\s+(.*)$').split()]
        user, nice, system, stolen = fields[0], fields[1], fields[2], fields[7]
        return (user + nice + system) * TICK_MS - _used_by(os.getpid()), stolen * TICK_MS

    def disturbance(self):
        """foreign_ms: CPU time of processes that are not ours; stolen_ms: what the hypervisor kept from us; disturbed:
        whether that was more than a twentieth of the time, apart from what the ticks of the clock blur."""
        foreign, stolen = (now - then for now, then in zip(self._now(), self.before))
        elapsed = (time.monotonic() - self.begin) * 1000
        return {'foreign_ms': round(max(foreign, 0)), 'stolen_ms': round(stolen),
                'disturbed': foreign + stolen > elapsed / 20 + 2 * TICK_MS}
