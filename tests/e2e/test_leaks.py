"""Many sessions come and go, and nothing is left of them, neither in the agent nor in the server.

A short run. The long one: pytest tests/e2e/test_leaks.py --sessions 100000.
"""

import os
from pathlib import Path

import pytest

from harness import BUILD, built_program, free_port, wait_until

# Resident memory may differ by that much: what allocators and pools keep for the next.
SLACK = 3 << 20


def state_of(pid):
    """Descriptors and resident bytes."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return len(os.listdir(f'/proc/{pid}/fd')), pages * os.sysconf('SC_PAGE_SIZE')


def come_and_go(agent, port, count):
    """Returns how many sessions there were."""
    ids = [agent.call('stats')['offers']['total']]
    result = agent.run([BUILD / 'tests' / 'e2e' / 'comers', port, count], timeout=60 + count / 50)
    assert result.out == 'ok\n'
    wait_until(lambda: not agent.sessions(), 'no session is left')
    return (agent.call('stats')['offers']['total'] - ids[0]) // 2


def check_grown(agent, name, before, after):
    assert after[0] <= before[0] + 8, f'{name}: {before[0]} descriptors became {after[0]}'
    if not agent.sanitized:
        assert after[1] <= before[1] + SLACK, f'{name}: {before[1]} bytes became {after[1]}'


def test_nothing_is_left(agent, request):
    if agent.plain:
        pytest.skip('there are no sessions')
    count = request.config.getoption('--sessions')
    port, other = free_port(), free_port()
    server = agent.serve([built_program('hostile'), 'serve', port, other], other)
    for restarted in False, True:
        if restarted:
            agent.kill_agent()
            agent.start_agent()
        come_and_go(agent, port, count // 10 + 100)         # pools fill
        before = {'agent': state_of(agent.daemon.pid), 'server': state_of(server.pid)}
        sessions = come_and_go(agent, port, count // 2)
        assert sessions > count // 4, f'only {sessions} of {count // 2} connections were upgraded'
        wait_until(lambda: state_of(agent.daemon.pid)[0] <= before['agent'][0] + 8, 'the agent closes what it had')
        for name, pid in ('agent', agent.daemon.pid), ('server', server.pid):
            print(f'{name}: {before[name]} before {sessions} sessions, {state_of(pid)} after')
            check_grown(agent, name, before[name], state_of(pid))
    assert server.stop(timeout=40).code == 0
