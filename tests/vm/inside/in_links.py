"""Links between two agents over real verbs."""

import threading

from harness import wait_until

import roce


def is_up(host):
    return host.link()['state'] == 'up'


def connect(*callers, hosts):
    for host in callers:
        host.call('peers.connect')
    wait_until(lambda: all(map(is_up, hosts)), 'the link is up on both hosts')


def test_a_link_comes_up_and_lives(hosts):
    connect(hosts[0], hosts=hosts)
    for host in hosts:
        assert host.link()['device'] == roce.DEVICE
        wait_until(lambda: host.link()['rtt_us'] > 0, 'a ping was answered')
    assert [host.link()['failures'] for host in hosts] == [0, 0]


def test_both_connect_at_once(hosts):
    connect(*hosts, hosts=hosts)
    assert [host.link()['times_up'] for host in hosts] == [1, 1]


def test_an_agent_is_killed_and_comes_back(hosts):
    a, b = hosts
    connect(a, hosts=hosts)
    b.kill_agent()
    wait_until(lambda: not is_up(a), 'the other agent has noticed')
    b.start_agent()
    connect(a, hosts=hosts)


def test_a_wrong_key(make_hosts):
    a, b = make_hosts()
    a.expected_complaints = b.expected_complaints = ['']
    (a.home / 'key').write_text('not the key of the other host at all\n')
    a.call('reload')
    a.call('peers.connect')
    wait_until(lambda: b.call('peers')['refused'] > 0, 'it is refused')
    assert not is_up(a) and not is_up(b)


def test_the_device_goes_and_comes(hosts):
    """The kernel takes it away only when both agents have let go of it."""
    a, b = hosts
    a.expected_complaints = b.expected_complaints = ['']
    connect(a, hosts=hosts)
    remove = threading.Thread(target=roce.run, args=(roce.REMOVE_DEVICE,))
    remove.start()
    wait_until(lambda: not is_up(a) and not is_up(b), 'both have noticed')
    remove.join(20)
    assert not remove.is_alive()
    roce.run(roce.ADD_DEVICE)
    wait_until(lambda: a.call('peers')['listening'] and b.call('peers')['listening'], 'both listen again')
    connect(a, hosts=hosts)
