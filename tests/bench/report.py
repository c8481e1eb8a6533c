"""What is made of the measurements: medians and spread, ratios, whether aims are met, and a table for people.

A result is what bench.json holds for one case: its name, its samples by variant, its notes, and for each metric a
summary by variant, ratios and judged aims.
"""

import statistics

from cases import VARIANTS, how_much_better
from machine import FAR_NS

TITLES = {'tcp': 'TCP', 'unix': 'Unix', 'ours': 'ours', 'ring': 'bare ring'}


# ---- figures

def summarize(values):
    """Median and spread; None of nothing."""
    if not values:
        return None
    low, _, high = statistics.quantiles(values, n=4, method='inclusive') if len(values) > 1 else values * 3
    return {'median': statistics.median(values), 'min': min(values), 'max': max(values), 'q1': low, 'q3': high,
            'count': len(values)}


def undisturbed(samples):
    """Those during which nothing else used the machine; all, if none is such."""
    return [sample for sample in samples if not sample.get('disturbed')] or samples


def judge(metric, samples):
    """One metric of a case: summaries by variant, ratios between medians, aims."""
    summaries = {variant: summarize([sample[metric.key] for sample in undisturbed(taken) if metric.key in sample])
                 for variant, taken in samples.items()}
    summaries = {variant: summary for variant, summary in summaries.items() if summary}
    medians = {variant: summary['median'] for variant, summary in summaries.items()}
    ours = medians.get('ours')
    ratios = {variant: how_much_better(ours, medians[variant], metric.better) for variant in medians
              if variant != 'ours' and ours is not None}
    aims = []
    for aim in metric.aims:
        value = aim.value(medians, metric.better)
        aims.append({'text': aim.text(), 'against': aim.against, 'limit': aim.limit, 'value': value,
                     'met': None if value is None else aim.met(value)})
    return {'key': metric.key, 'title': metric.title, 'unit': metric.unit, 'better': metric.better,
            'variants': summaries, 'better_than': ratios, 'aims': aims}


def disturbance_note(samples):
    """How much of a case was disturbed; None if nothing was."""
    taken = [sample for one in samples.values() for sample in one]
    bad = [sample for sample in taken if sample.get('disturbed')]
    without = [variant for variant, one in samples.items() if one and all(sample.get('disturbed') for sample in one)]
    if not bad:
        return None
    text = 'other load during %d of %d measurements' % (len(bad), len(taken))
    return text + ('; **undisturbed ones are wanting for %s**' % ', '.join(without) if without else ', left out')


def ring_note(case_ring, sample):
    """What is wrong about the way the bytes of a measurement under the library went; None if nothing is."""
    used, payload = sample.get('ring_bytes', 0), sample.get('payload_bytes', 1)
    if case_ring is None:
        return None
    if not case_ring:
        return None if used == 0 else 'used a ring, which it should not have (%d bytes)' % used
    if used == 0:
        return 'NO RING WAS USED: this is TCP under the library'
    if used < 0.9 * payload:
        return 'only %d %% of the bytes went through a ring' % (100 * used // payload)
    if sample.get('sessions', 0) < sample.get('connections', 0):
        return 'only %d of %d connections were upgraded' % (sample['sessions'], sample['connections'])
    return None


# ---- for people

def number(value):
    """Three significant digits, without an exponent: 0.128, 7.15, 61.1, 18,300."""
    if value is None:
        return '–'
    size = abs(value)
    if size >= 1000:
        return '{:,.0f}'.format(float('%.3g' % value))
    for limit, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if size >= limit:
            return '%.*f' % (digits, value)
    return '%.3g' % value if value else '0'


def spread(summary):
    if not summary:
        return '–'
    if summary['count'] == 1:
        return number(summary['median'])
    return '%s (%s–%s)' % (number(summary['median']), number(summary['min']), number(summary['max']))


def times(ratio):
    return '–' if ratio is None else number(ratio) + ' ×'


def aim_text(aims):
    """The aims of a row, and whether they are met."""
    if not aims:
        return '–', '–'
    words = {True: 'met', False: '**not met**', None: '–'}
    return '; '.join(aim['text'] for aim in aims), '; '.join(words[aim['met']] for aim in aims)


def row(metric):
    ratios = metric['better_than']
    over_ring = ratios.get('ring')
    return (['%s, %s' % (metric['title'], metric['unit'])] +
            [spread(metric['variants'].get(variant)) for variant in VARIANTS] +
            [times(ratios.get('tcp')), times(ratios.get('unix')), times(over_ring and 1 / over_ring)] +
            list(aim_text(metric['aims'])))


HEAD = ['what, unit', *(TITLES[variant] for variant in VARIANTS), 'ours over TCP', 'ours over Unix', 'cost over ring',
        'aim', '']


def table(rows):
    """A Markdown table with columns as wide as they need to be."""
    widths = [max(len(line[i]) for line in rows + [HEAD]) for i in range(len(HEAD))]

    def line(cells):
        return '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(cells, widths)) + ' |'

    rule = '|' + '|'.join('-' * (width + 2) for width in widths) + '|'
    return '\n'.join([line(HEAD), rule] + [line(cells) for cells in rows])


def probe_text(probes):
    """How far apart the CPUs were, in one sentence."""
    if not probes:
        return 'Cache line round trip: not measured (one CPU).'
    text = 'Cache line round trip between the two CPUs: %s ns' % number(statistics.median(probes))
    if len(probes) > 1:
        text += ' (%s–%s over the run)' % (number(min(probes)), number(max(probes)))
    if statistics.median(probes) > FAR_NS:
        text += '. **Over %d ns: these CPUs lie far apart; do not judge ratios to TCP by this run.**' % FAR_NS
    return text + ('' if text.endswith('**') else '.')


def notes_of(case):
    disturbance = disturbance_note(case['samples'])
    return case['notes'] + ([disturbance] if disturbance else [])


def document(run):
    """The whole report as Markdown. `run` is what bench.json holds."""
    machine, settings = run['machine'], run['settings']
    lines = ['# Benchmark', '',
             '%s, %d CPUs%s, Linux %s, %s; %s' % (machine['processor'], machine['cpus'],
                                                  ' (virtual)' if machine['virtual'] else '', machine['kernel'],
                                                  machine['system'], machine['time']),
             '', probe_text(run['probes']), '',
             'Medians of %d rounds in which the variants take turns, and in brackets the least and the greatest; '
             'server on CPU %d, client on CPU %d, %g s each. "Over" compares medians: above 1 ours is better; "cost '
             'over ring" is 1 at the limit.' % (settings['rounds'], *settings['cpus'], settings['seconds'])]
    if run.get('interrupted'):
        lines += ['', '**Interrupted: what had been measured by then.**']
    if not run['library']:
        lines += ['', '**The library was not built: nothing of ours was measured.**']
    groups = {}
    for case in run['cases']:
        groups.setdefault(case['group'], []).append(case)
    for group, cases in groups.items():
        lines += ['', '## ' + group, '']
        rows = [row(metric) for case in cases for metric in case['metrics']]
        lines += [table(rows)] if rows else []
        notes = ['- `%s`: %s' % (case['name'], note) for case in cases for note in notes_of(case)]
        lines += [''] + notes if notes else []
    aims = [aim for case in run['cases'] for metric in case['metrics'] for aim in metric['aims']
            if aim['met'] is not None]
    if aims:
        lines += ['', '%d of %d aims are met.' % (sum(aim['met'] for aim in aims), len(aims))]
    return '\n'.join(lines) + '\n'
