"""The benchmark itself: what it makes of numbers, and that its programs measure what they say. No figure is judged."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench  # noqa: E402
import host as bench_host  # noqa: E402
import machine  # noqa: E402
import report  # noqa: E402
from cases import Aim, Metric, how_much_better  # noqa: E402

CPUS = machine.choose_cpus()
# A library built with a sanitizer needs more than the benchmark gives it, and its figures mean nothing.
sanitized = harness.LIBRARY.exists() and bool(harness._library_needs())
needs_two_cpus = pytest.mark.skipif(CPUS[0] == CPUS[1], reason='needs two CPUs')


def samples_of(**values):
    """samples_of(tcp=[1, 2]): samples by variant, with the key `x`."""
    return {variant: [{'x': value} for value in taken] for variant, taken in values.items()}


# ---- what is made of numbers

def test_medians_and_spread():
    assert report.summarize([3, 1, 2]) == {'median': 2, 'min': 1, 'max': 3, 'q1': 1.5, 'q3': 2.5, 'count': 3}
    assert report.summarize([5]) == {'median': 5, 'min': 5, 'max': 5, 'q1': 5, 'q3': 5, 'count': 1}
    assert report.summarize([]) is None


@pytest.mark.parametrize('better, ours, other, gain', [('lower', 2, 10, 5), ('higher', 10, 2, 5),
                                                       ('lower', 0, 3, None)])
def test_ratios_say_how_much_better_ours_is(better, ours, other, gain):
    assert how_much_better(ours, other, better) == gain


@pytest.mark.parametrize('aim, better, values, value, met', [
    (Aim('tcp', 20), 'lower', dict(tcp=[100], ours=[5]), 20, True),
    (Aim('tcp', 20), 'lower', dict(tcp=[99], ours=[5]), 19.8, False),
    (Aim('tcp', 4), 'higher', dict(tcp=[2], ours=[8]), 4, True),
    (Aim('unix', 1), 'higher', dict(unix=[2], ours=[1]), 0.5, False),
    (Aim('ring', 2.5), 'lower', dict(ring=[2], ours=[5]), 2.5, True),
    (Aim('ring', 2.5), 'higher', dict(ring=[6], ours=[2]), 3, False),
    (Aim('cost', 0.35), 'lower', dict(tcp=[10], ours=[3]), 0.3, True),
    (Aim('cost', 1.6), 'lower', dict(tcp=[10], ours=[17]), 1.7, False),
    (Aim('extra', 30), 'lower', dict(tcp=[100], ours=[129]), 29, True),
    (Aim('value', 1), 'lower', dict(ours=[1.5]), 1.5, False),
    (Aim('tcp', 20), 'lower', dict(tcp=[100]), None, None),
])
def test_aims_are_judged(aim, better, values, value, met):
    judged = report.judge(Metric('x', 'title', 'us', better, (aim,)), samples_of(**values))
    assert judged['aims'][0]['value'] == pytest.approx(value) and judged['aims'][0]['met'] is met


def test_disturbed_measurements_do_not_count():
    samples = {'tcp': [{'x': 1}, {'x': 9, 'disturbed': True}, {'x': 3}], 'ours': [{'x': 7, 'disturbed': True}]}
    judged = report.judge(Metric('x', 'title', 'us'), samples)
    assert judged['variants']['tcp']['median'] == 2 and judged['variants']['ours']['median'] == 7
    note = report.disturbance_note(samples)
    assert '2 of 4' in note and 'wanting for ours' in note
    assert report.disturbance_note({'tcp': [{'x': 1}]}) is None


@pytest.mark.parametrize('ring, sample, words', [
    (True, dict(ring_bytes=100, payload_bytes=100, sessions=2, connections=2), None),
    (True, dict(ring_bytes=0, payload_bytes=100), 'NO RING'),
    (True, dict(ring_bytes=89, payload_bytes=100), 'only 89 % of the bytes'),
    (True, dict(ring_bytes=100, payload_bytes=100, sessions=1, connections=2), 'only 1 of 2 connections'),
    (False, dict(ring_bytes=0), None),
    (False, dict(ring_bytes=1), 'should not have'),
    (None, dict(ring_bytes=0), None),
])
def test_it_is_noticed_how_the_bytes_went(ring, sample, words):
    note = report.ring_note(ring, sample)
    assert note is None if words is None else words in note


@pytest.mark.parametrize('value, text', [(0.12841, '0.128'), (7.149, '7.15'), (61.11, '61.1'), (18345, '18,300'),
                                         (999.6, '1000'), (0, '0'), (0.0123, '0.0123'), (None, '–')])
def test_numbers_for_people(value, text):
    assert report.number(value) == text


def test_the_document_has_every_case_and_its_notes():
    metric = Metric('x', 'a title', 'us', aims=(Aim('tcp', 2),))
    samples = samples_of(tcp=[10, 12], ours=[2, 3])
    case = {'name': 'one', 'group': 'Group', 'samples': samples, 'notes': ['a note'], 'failed': False,
            'metrics': [report.judge(metric, samples)]}
    run = {'machine': machine.facts(bench.ROOT), 'library': True, 'probes': [200.0], 'cases': [case],
           'settings': {'rounds': 2, 'cpus': CPUS, 'seconds': 1, 'quick': False, 'variants': []}}
    text = report.document(run)
    assert '| a title, us | 11.0 (10.0–12.0) | – ' in text and '4.40 ×' in text and '≥ 2 × TCP | met' in text
    assert '- `one`: a note' in text and '1 of 1 aims are met' in text
    assert 'do not judge' in text       # 200 ns is far


def test_case_names_are_unique_and_can_be_chosen():
    names = [case.name for case in bench.choose_cases(None)]
    assert len(names) == len(set(names)) > 40
    assert [case.name for case in bench.choose_cases('asleep,psql*')] == \
        [name for name in names if name == 'asleep' or name.startswith('psql')]
    with pytest.raises(SystemExit):
        bench.choose_cases('nonesuch')


def test_foreign_load_is_seen():
    watch = machine.Watch()
    # Not our child: its parent ends at once.
    script = '\n'.join(['import os, time', 'if os.fork() == 0:', '    end = time.time() + 0.6',
                        '    while time.time() < end: pass'])
    subprocess.run([sys.executable, '-c', script], check=True)
    time.sleep(0.5)
    seen = watch.disturbance()
    assert seen['disturbed'] and seen['foreign_ms'] > 200


# ---- the programs

@pytest.fixture(scope='module')
def measuring():
    with contextlib.closing(bench_host.Host(harness.BUILD, CPUS)) as one:
        yield one


def parameters(**more):
    return dict(seconds=0.1, server_cpus=CPUS[0], client_cpus=CPUS[1]) | more


@pytest.mark.parametrize('family', ['tcp', 'tcp6', 'unix'])
@pytest.mark.parametrize('mode, size', [('block', 1), ('block', 1 << 20), ('spin', 64), ('epoll', 100_000)])
@needs_two_cpus
def test_pingpong(measuring, family, mode, size):
    result = measuring.measure('pingpong', 30, **parameters(family=family, mode=mode, size=size, warmup=0.05))
    assert result['rounds'] > 0 and 0 < result['min_us'] <= result['us'] <= result['p99_us']
    assert result['per_second'] * result['mean_us'] == pytest.approx(1e6, rel=0.5)


def test_pingpong_pairs_and_pauses(measuring):
    result = measuring.measure('pingpong', 30, **parameters(pairs=3, client_cpus=CPUS[0]))
    assert result['rounds'] > 3
    result = measuring.measure('pingpong', 30, **parameters(pause_us=2000, seconds=0.3, client_cpus=CPUS[0]))
    assert 10 < result['rounds'] <= 150 and result['us'] < 2000    # the pause does not count


@pytest.mark.parametrize('family', ['tcp', 'unix'])
def test_stream(measuring, family):
    result = measuring.measure('stream', 30, **parameters(family=family, size=4096))
    assert result['bytes'] > 0 and result['gb_per_s'] > 0
    both = result['writer_cpu_s_per_gb'] + result['reader_cpu_s_per_gb']
    assert result['cpu_s_per_gb'] == pytest.approx(both, rel=0.01)


@pytest.mark.parametrize('more', [dict(test='roundtrip'), dict(test='roundtrip', size=1 << 20),
                                  dict(test='roundtrip', wait='flag'), dict(test='roundtrip', wait='sleep'),
                                  dict(test='roundtrip', wait='sleep', pause_us=1000, client_cpus=CPUS[0])])
@needs_two_cpus
def test_ring_round_trips(measuring, more):
    result = measuring.measure('ring', 30, **parameters(**more))
    assert result['rounds'] > 0 and 0 < result['min_us'] <= result['us']


@needs_two_cpus
def test_ring_stream(measuring):
    result = measuring.measure('ring', 30, **parameters(test='stream', size=4096))
    assert result['bytes'] > 0 and result['gb_per_s'] > 0


def test_connrate(measuring):
    result = measuring.measure('connrate', 30, **parameters(seconds=5, connections=50))
    assert result['connections'] == 50 and result['us'] > 0


def test_calls(measuring):
    names = measuring.measure('calls', 10, call='list')['calls']
    assert set(names) == set(bench.micro.CALLS)
    for name in names:
        assert 0 < measuring.measure('calls', 10, call=name, seconds=0.01)['ns'] < 1e6


@needs_two_cpus
def test_probe(measuring):
    # On a busy machine the two are preempted by turns: one undisturbed measurement is wanted.
    assert 1 < min(measuring.measure('probe', 10, cpus='%d,%d' % tuple(CPUS), seconds=0.02)['ns']
                   for _ in range(10)) < 1e5


@needs_two_cpus
def test_never_halting_ends_with_its_context(measuring):
    with measuring.never_halting():
        spinner = measuring.processes[-1]
        assert spinner.poll() is None
    assert spinner.poll() is not None and measuring.processes == []


@pytest.mark.parametrize('arguments, words', [
    (['pingpong', 'bogus=1'], 'name=value'), (['stream', 'size=much'], 'number'),
    (['ring', 'wait=never'], 'spin flag sleep'), (['calls', 'call=x'], 'no such')])
def test_wrong_parameters_are_named(measuring, arguments, words):
    done = subprocess.run([measuring.program(arguments[0]), *arguments[1:]], capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr


# ---- all together

def run_bench(tmp_path, *options):
    output = tmp_path / 'out.json'
    command = [harness.PYTHON, harness.ROOT / 'tests/bench/bench.py', '--quick', '--output', output, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=100,
                          env=dict(os.environ, RDMA_BUILD=str(harness.BUILD)))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out.md').read_text() in done.stdout
    return json.loads(output.read_text())


@needs_two_cpus
def test_a_run_of_each_variant(tmp_path, plain):
    with_ours = not plain and not sanitized
    variants = ['tcp', 'unix', 'ring'] + ['ours'] * with_ours
    outcome = run_bench(tmp_path, '--only', 'rt-block-64,connect', '--rounds', '1', '--variants', ','.join(variants))
    cases = {case['name']: case for case in outcome['cases']}
    assert set(cases) == {'rt-block-64', 'connect'} and len(outcome['probes']) == 2
    assert all(cases['rt-block-64']['samples'][variant] for variant in variants)
    if with_ours:
        sample = cases['rt-block-64']['samples']['ours'][0]
        assert sample['ring_bytes'] >= sample['payload_bytes'] and cases['rt-block-64']['notes'] == []
        assert cases['connect']['samples']['ours'][0]['ring_bytes'] == 0


@needs_two_cpus
def test_what_stays_tcp_is_noticed(tmp_path, plain, monkeypatch):
    """A ring that is not used must not pass for one."""
    if plain or sanitized:
        pytest.skip('needs the library, without sanitizers')
    monkeypatch.setitem(bench_host.CONFIGURATIONS, 'default', bench_host.CONFIGURATIONS['never'])
    with contextlib.closing(bench_host.Host(harness.BUILD, CPUS)) as one:
        options = argparse.Namespace(variants=['ours'], seconds=0.1, quick=True, rounds=1)
        result = bench.run_case(one, bench.choose_cases('rt-block-64')[0], options)
    assert any('NO RING' in note for note in result['notes'])
