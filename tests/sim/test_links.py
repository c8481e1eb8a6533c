"""Links between two agents: they come up when wanted, only with whom they should, and again after whatever befalls."""

import re
import time

import pytest

from agent_host import wait_until
from two_hosts import peer


def both_up(*agents):
    wait_until(lambda: all(agent.is_up() for agent in agents), 'the link is up on both sides')


def connect(one, two):
    one.connect()
    both_up(one, two)


def ups(agent):
    return agent.link()['times_up']


def test_without_peers_nothing_listens(make_sim):
    agent = make_sim('db1', 0)
    agent.configure()
    agent.start()
    assert agent.call('peers') == {'host': 'db1', 'listening': [], 'refused': 0, 'peers': []}
    assert agent.stats()['links'] == {'peers': 0, 'up': 0, 'refused': 0}


def test_a_link_comes_up_when_it_is_wanted(running):
    one, two = running
    time.sleep(0.3)
    row = one.link()
    assert row['state'] == 'down' and row['times_up'] == 0 and row['device'] is None and row['error'] is None
    assert one.connections() == 0
    connect(one, two)
    row = one.link()
    assert (row['name'], row['address'], row['networks']) == ('db2', '10.78.0.2:4792', ['10.78.0.2/32'])
    assert row['device'] == 'sim0' and row['times_up'] == 1 and row['failures'] == 0
    assert one.connections() == two.connections() == 1
    wait_until(lambda: one.link()['rtt_us'] > 0, 'a ping was answered')
    assert one.stats()['links'] == {'peers': 1, 'up': 1, 'refused': 0}


def test_exactly_one_side_is_the_major(running):
    connect(*running)
    assert sorted(re.search(r'\((major|minor)\)', agent.log()).group(1) for agent in running) == ['major', 'minor']


@pytest.mark.parametrize('delay', ['0', '0 3000', '0 30000', '20000 60000', '40000'])
def test_both_connect_at_once(running, delay):
    for _ in range(5):
        for agent in running:
            agent.order(f'delay {delay}')
        before = [ups(agent) for agent in running]
        for agent in running:
            agent.connect()
        both_up(*running)
        wait_until(lambda: all(agent.connections() == 1 for agent in running), 'one connection is left')
        time.sleep(0.2)
        # It came up once: none was replaced.
        assert [ups(agent) for agent in running] == [count + 1 for count in before]
        assert [agent.link()['failures'] for agent in running] == [0, 0]
        for agent in running:
            agent.order('delay 0')
        forget(*running)


def forget(*agents):
    """Takes the link down for good, by configuration, and brings the peers back."""
    before = [agent.config() for agent in agents]
    for agent in agents:
        agent.configure()
        agent.call('reload')
    for agent, text in zip(agents, before):
        agent.write_config(text)
        agent.call('reload')


@pytest.mark.parametrize('which', [0, 1])
def test_a_wrong_key(pair, which):
    one, two = pair
    pair[which].write_key('another key that nobody else has')
    one.start(), two.start()
    one.connect()
    wait_until(lambda: two.refused() > 0, 'it is refused')
    wait_until(lambda: one.link()['failures'] > 0, 'the attempt failed')
    assert 'are the keys the same' in one.link()['error']
    assert 'its proof is wrong' in two.link()['error']
    assert one.is_down() and two.is_down()
    pair[which].write_key(one.key_file.read_text() if which else two.key_file.read_text())
    pair[which].call('reload')
    connect(one, two)
    assert one.link()['error'] is None and two.link()['error'] is None


def test_an_unknown_host_is_refused_and_said_once(pair):
    one, two = pair
    two.configure(peer('db9', '10.78.0.9', two.key_file))
    one.start(), two.start()
    one.connect()
    wait_until(lambda: two.refused() >= 3, 'it was refused again and again')
    assert two.log().count('a connection from 10.78.0.1:') == 1
    assert two.connections() == 0 and one.is_down()
    assert 'Connection refused (is the agent there running, and does its configuration name this host?)' in one.link()[
        'error']


def test_the_name_must_be_right_on_the_accepting_side(pair):
    one, two = pair
    two.configure(peer('db7', one.place.address, two.key_file))
    one.start(), two.start()
    one.connect()
    wait_until(lambda: two.refused() > 0, 'it is refused')
    assert 'it calls itself "db1", and there is no peer of that name with this address' in two.log()


def test_the_name_must_be_right_on_the_connecting_side(pair):
    one, two = pair
    one.configure(peer('db7', two.place.address, one.key_file))
    one.start(), two.start()
    one.connect()
    wait_until(lambda: one.link()['failures'] > 0, 'the attempt failed')
    assert 'it calls itself "db2": expected "db7"' in one.link()['error']
    assert two.is_down()


def test_nobody_is_there(pair):
    one, two = pair
    one.start()
    one.connect()
    wait_until(lambda: one.link()['failures'] > 0, 'the attempt failed')
    two.start()
    both_up(one, two)


def test_attempts_become_seldom(pair):
    one, two = pair
    two.begin = 'refuse on'
    one.start(), two.start()
    one.connect()
    time.sleep(4)
    failures = one.link()['failures']
    # After 0.2, 0.6, 1.4, 3.0 s, give or take a half.
    assert 3 <= failures <= 8
    assert one.log().count('warning: peer db2: cannot connect') == 1
    two.order('refuse off')
    both_up(one, two)


def test_a_cut_link_is_made_again(running):
    one, two = running
    connect(one, two)
    for _ in range(3):
        before = ups(one), ups(two)
        one.order('cut')
        wait_until(lambda: ups(one) > before[0] and ups(two) > before[1], 'it is up again')
        both_up(one, two)
    wait_until(lambda: one.connections() == two.connections() == 1, 'one connection is left')


def test_a_dead_host_is_found(running):
    one, two = running
    connect(one, two)
    two.order('silent on')
    begin = time.monotonic()
    wait_until(one.is_down, 'the link is down')
    assert 2 < time.monotonic() - begin < 8
    # The silent one may be the first to find that it is, and the other only hears it hang up.
    wait_until(two.is_down, 'the link is down there, too')
    assert any('no answer for 3 s' in agent.link()['error'] for agent in running)
    two.order('silent off')
    both_up(one, two)


def test_a_stopped_agent_is_found_and_found_again(running):
    one, two = running
    connect(one, two)
    two.process.send_signal(19)
    wait_until(one.is_down, 'the link is down')
    two.process.send_signal(18)
    wait_until(lambda: ups(two) > 1, 'it is up again')
    both_up(one, two)


def test_an_agent_is_killed_and_started_again(running):
    one, two = running
    connect(one, two)
    two.kill()
    wait_until(one.is_down, 'the link is down')
    two.start()
    both_up(one, two)
    assert ups(one) == 2 and ups(two) == 1


def test_an_agent_stops(running):
    one, two = running
    connect(one, two)
    two.stop()
    wait_until(one.is_down, 'the link is down')


def test_no_device(pair):
    one, two = pair
    one.begin = 'device off'
    one.start(), two.start()
    assert 'there is no RDMA device to listen for peers at [::]:4792' in one.log()
    one.connect()
    wait_until(lambda: one.link()['failures'] > 0, 'the attempt failed')
    assert 'there is no RDMA device here' in one.link()['error']
    assert one.call('peers')['listening'] == []
    one.order('device on')
    wait_until(lambda: one.call('peers')['listening'] == ['[::]:4792'], 'it listens')
    both_up(one, two)


def test_a_device_goes_and_comes(running):
    one, two = running
    connect(one, two)
    one.order('device off')
    wait_until(lambda: one.is_down() and two.is_down(), 'the link is down')
    one.order('device on')
    both_up(one, two)


def test_a_peer_is_taken_out_and_put_in(running):
    one, two = running
    connect(one, two)
    before = one.config()
    one.configure()
    assert one.call('reload')['changed'] == ['peers']
    assert one.call('peers')['peers'] == [] and one.connections() == 0
    wait_until(two.is_down, 'the link is down')
    one.write_config(before)
    one.call('reload')
    both_up(one, two)       # the other side still wants it


def test_a_changed_peer_comes_up_anew(running):
    one, two = running
    connect(one, two)
    one.configure(one.peer_of(two, networks=['10.0.0.0/8', '10.78.0.2/32']))
    one.call('reload')
    wait_until(lambda: ups(one) == 2 and one.is_up() and two.is_up(), 'it is up again')
    # What did not change leaves it alone.
    one.call('reload')
    time.sleep(0.2)
    assert one.is_up() and ups(one) == 2


def test_listening_elsewhere_leaves_links_alone(running):
    one, two = running
    connect(one, two)
    for listen in (['10.78.0.2'], ['10.78.0.2:4801', '10.78.0.2'], ['10.78.0.2:4801']):
        two.configure(two.peer_of(one), rdma={'listen': listen})
        two.call('reload')
        expected = [at if ':' in at else f'{at}:4792' for at in listen]
        wait_until(lambda expected=expected: two.call('peers')['listening'] == expected, 'it listens there, and nowhere else')
        assert one.is_up() and two.is_up() and ups(one) == ups(two) == 1
    two.order('cut')
    wait_until(lambda: one.link()['failures'] > 0, 'the link has failed')
    one.configure(peer('db2', '10.78.0.2:4801', one.key_file))
    one.call('reload')
    connect(one, two)


def test_another_port_and_name(running):
    one, two = running
    connect(one, two)
    two.configure(two.peer_of(one), rdma={'port': 4800, 'name': 'other', 'listen': ['10.78.0.2']})
    two.call('reload')
    wait_until(lambda: two.call('peers')['listening'] == ['10.78.0.2:4800'], 'it listens there')
    one.configure(peer('other', '10.78.0.2:4800', one.key_file))
    one.call('reload')
    connect(one, two)
    assert two.call('peers')['host'] == 'other'


def test_an_idle_link_costs_next_to_nothing(running):
    one, two = running
    connect(one, two)
    time.sleep(0.5)
    before = one.cpu_ns()
    time.sleep(2)
    assert one.cpu_ns() - before < 100_000_000
