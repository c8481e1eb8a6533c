"""Faults at random times, under checksummed connections of all kinds that never stop: what chaos tests are made of.

A `Job` is `exact` (exact/main.c), which checks every byte, in one program on one host or in two on two hosts. `Load`
replaces each that is done by another one. `Faults` does to the hosts what may happen to them, and counts what that led
to. `Chaos` brings them together.
"""

import collections
import contextlib
import signal
import time

from harness import EAGER, built_program, free_port

LOOPS = ['threads', 'poll', 'select', 'epoll', 'epoll-edge', 'epoll-oneshot']
HOLDERS = ['one', 'one', 'fork', 'split']

# Seconds that a round of connections may take: then `exact` gives up by itself, and says where it stands.
LONGEST = 100

# What the connections of a job carry each way at the most, all together: so much that TCP does it on a busy machine.
MOST_BYTES = 1 << 29

# Local ports of clients on two hosts: below those that the kernel and free_port() give, above that of the agents.
CLIENT_PORTS = range(5000, 14000)


def random_config(chance):
    return {**EAGER, 'rings': {'bytes': 1 << chance.randrange(14, 19)}}


def some_connections(chance, most):
    """Of what kind, as options of `exact`, how many in all, and in how many rounds; `most` bytes together, each way."""
    if chance.random() < 0.3:
        connections, rounds = chance.randrange(1, 30), chance.randrange(2, 4 + (most >> 23))
        size = 1 << chance.randrange(6, 15)
    else:
        connections, rounds = chance.choice((1, 8, 40)), 1
        size = min(1 << chance.randrange(16, 28), most // connections)
    return connections * rounds, rounds, ['--connections', connections, '--rounds', rounds, '--bytes', size,
                                          '--seconds', LONGEST, '--loop', chance.choice(LOOPS),
                                          '--holders', chance.choice(HOLDERS)]


class Job:
    """The programs that hold both ends of some connections. They end by themselves, be it with an error."""

    def __init__(self, programs, seed, connections, rounds):
        self.programs, self.seed, self.connections = programs, seed, connections
        self.until = time.monotonic() + rounds * LONGEST + 10

    def running(self):
        return any(program.running() for program in self.programs)

    def judge(self):
        # One that is ended here looks to the other like an early end of the stream: what that says counts for nothing.
        for program in self.programs:
            result = program.wait(max(10, self.until - time.monotonic()))
            assert result.out == f'ok, seed {self.seed}\n', repr(result)
            program.forget()


def job_on_one_host(host, chance):
    seed, (connections, rounds, options) = chance.randrange(1 << 48), some_connections(chance, MOST_BYTES)
    return Job([host.spawn([built_program('exact'), '--seed', seed, *options])], seed, connections, rounds)


def job_on_two_hosts(hosts, chance, most=MOST_BYTES, hold=True):
    """With `hold`, agents may be killed (LinkFaults): connections are closed when nothing of them is in their hands alone."""
    seed, (connections, rounds, options) = chance.randrange(1 << 48), some_connections(chance, most)
    server, client = chance.sample(hosts, 2)
    port, client_ports = free_port(), chance.choice(CLIENT_PORTS[:-connections])
    command = [built_program('exact'), '--seed', seed, *options, '--address', server.address, '--port', port,
               '--client-ports', client_ports, *(['--hold'] if hold else [])]
    serving = server.serve([*command, '--role', 'server'], port)
    return Job([serving, client.spawn([*command, '--role', 'client'])], seed, connections, rounds)


class Load:
    """Jobs, each replaced by another one when it is done. `start` makes one."""

    def __init__(self, start, count):
        self.start = start
        self.connections = self.done = 0
        self.running = [self._another() for _ in range(count)]

    def _another(self):
        job = self.start()
        self.connections += job.connections
        return job

    def _judge(self, job):
        job.judge()
        self.done += 1

    def look(self):
        for i, job in enumerate(self.running):
            if not job.running():
                self._judge(job)
                self.running[i] = self._another()

    def finish(self, report=lambda: None):
        for job in self.running:
            while job.running() and time.monotonic() < job.until:
                report()
                time.sleep(0.2)
            self._judge(job)


class Faults:
    """What may happen to a host, or to either of two, and what that led to."""

    def __init__(self, hosts, chance):
        self.hosts, self.chance = hosts, chance
        self.ends = self.left = self.bytes = 0
        self.seen = collections.defaultdict(set)        # the sessions that each end of a connection was seen in

    def kinds(self):
        return [self.agent_killed, self.agent_restarted, self.agent_stopped, self.all_ordered_down,
                self.some_ordered_down, self.all_sent_again]

    def _one(self):
        return self.chance.choice(self.hosts)

    def _pause(self, *seconds):
        time.sleep(self.chance.choice(seconds))

    def _note(self, host):
        """What an agent knows, before it goes."""
        stats = host.stats()
        assert stats['protocol_errors'] == stats['reasons']['protocol'] == 0, stats
        self.ends += stats['sessions']['total'] * (2 if len(self.hosts) == 1 else 1)
        self.left += stats['sessions']['ends_left']
        self.bytes += stats['bytes']['rx']

    def over(self):
        """No more of them: what still slows the hosts down ends."""

    def look(self):
        for host in self.hosts:
            for row in host.sessions():
                self.seen[row['local'], row['remote']].add((host.daemon.pid, row['id']))

    def results(self):
        for host in self.hosts:
            self._note(host)
        again = sum(len(sessions) - 1 for sessions in self.seen.values())
        return {'ends in rings': self.ends, 'fallbacks of ends': self.left, 're-upgrades of ends seen': again,
                'bytes through rings': self.bytes}

    def agent_killed(self):
        host = self._one()
        self._note(host)
        host.kill_agent()
        self._pause(0, 0, 0.05, 0.5)
        host.start_agent()

    def agent_restarted(self):
        host = self._one()
        self._note(host)
        host.stop_agent()
        host.start_agent()

    def agent_stopped(self):
        host = self._one()
        host.signal_agent(signal.SIGSTOP)
        self._pause(0.05, 0.3)
        host.signal_agent(signal.SIGCONT)

    def all_ordered_down(self):
        self._one().call('fallback', all=True)

    def all_sent_again(self):
        self._one().call('fallback', all=True, resend=True)

    def some_ordered_down(self):
        host = self._one()
        ids = sorted({row['id'] for row in host.sessions()})
        for number in self.chance.sample(ids, len(ids) // 3):
            with contextlib.suppress(AssertionError):       # it may be over by now
                host.call('fallback', id=number)


class LinkFaults(Faults):
    """What may happen to two hosts with a link between them. Without `kills` no agent is lost that has what a program that
    closed a connection has left in its ring."""

    def __init__(self, hosts, chance, kills=True):
        super().__init__(hosts, chance)
        self.kills = kills
        for host in hosts:
            host.expected_complaints.append('')     # of links that are lost

    def kinds(self):
        deadly = () if self.kills else (self.agent_killed, self.agent_restarted)
        return [kind for kind in super().kinds() if kind not in deadly]


class SimFaults(LinkFaults):
    """And what the simulated fabric does on order."""

    def kinds(self):
        return [*super().kinds(), self.peer_taken_out, self.link_cut, self.post_failed, self.write_torn,
                self.device_gone, self.host_silent, self.delays]

    def over(self):
        for host in self.hosts:
            host.order('delay 0')

    def peer_taken_out(self):
        host = self._one()
        host.write_config({**host.config, 'peers': []})
        host.call('reload')
        self._pause(0, 0.2)
        host.write_config(host.config)
        host.call('reload')

    def link_cut(self):
        self._one().order('cut')

    def post_failed(self):
        self._one().order(f'{self.chance.choice(("fail", "fail-late"))} {self.chance.randrange(1, 200)}')

    def write_torn(self):
        self._one().order(f'tear {self.chance.randrange(1, 200)}')

    def device_gone(self):
        host = self._one()
        host.order('device off')
        self._pause(0, 0.2)
        host.order('device on')

    def host_silent(self):
        host = self._one()
        host.order('silent on')
        self._pause(0.05, 0.5)
        host.order('silent off')

    def delays(self):
        self._one().order(self.chance.choice(('delay 0', 'delay 50', 'delay 0 3000')))


class Chaos:
    """So many jobs at a time, under faults that are `pause` seconds apart at the most."""

    def __init__(self, faults, start, chance, jobs=3, pause=0.3):
        self.faults, self.chance, self.pause = faults, chance, pause
        self.counts = collections.Counter()
        self.load = Load(start, jobs)

    def run(self, count, report=lambda summary: None):
        """Brings about `count` faults, and waits for the last job. Fails at the first error."""
        for _ in range(count):
            time.sleep(self.chance.random() * self.pause)
            fault = self.chance.choice(self.faults.kinds())
            fault()
            self.counts[fault.__name__] += 1
            self.faults.look()
            self.load.look()
            report(self.progress())
        self.faults.over()
        self.load.finish(lambda: report(self.progress()))

    def progress(self):
        return {'faults': sum(self.counts.values()), 'programs': self.load.done, 'connections': self.load.connections}

    def summary(self):
        """What came of it, as numbers by name."""
        return {**self.progress(), **self.counts, **self.faults.results()}
