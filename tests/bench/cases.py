"""What a case is: something that several variants do in turn, and what is wanted of ours.

Variants: "tcp" (loopback), "unix" (Unix domain socket), "ours" (TCP under the library) and "ring" (the bare ring, the
limit of the machine).
"""

import contextlib
import dataclasses
import typing

VARIANTS = ('tcp', 'unix', 'ours', 'ring')

# What holds of every figure for which nothing more is wanted.
NEVER_UNDER = 0.97


@dataclasses.dataclass(frozen=True)
class Aim:
    """A wanted relation. `against`:
    tcp     at least `limit` times as good as TCP
    unix    at least `limit` times as good as a Unix socket
    ring    at most `limit` times as costly as the bare ring
    cost    at most `limit` times the value of TCP
    extra   at most `limit` more than TCP
    value   at most `limit`
    """
    against: str
    limit: float

    def text(self):
        number = '%g' % self.limit
        return {'tcp': '≥ %s × TCP', 'unix': '≥ %s × Unix', 'ring': '≤ %s × ring', 'cost': '≤ %s × TCP\'s',
                'extra': '≤ TCP + %s', 'value': '≤ %s'}[self.against] % number

    def value(self, medians, better):
        """What is compared with the limit; None if something was not measured. `medians` by variant."""
        ours, other = medians.get('ours'), medians.get({'cost': 'tcp', 'extra': 'tcp'}.get(self.against, self.against))
        if ours is None or (other is None and self.against != 'value'):
            return None
        if self.against == 'value':
            return ours
        if self.against == 'extra':
            return ours - other
        if self.against == 'cost':
            return ours / other if other else None
        gain = how_much_better(ours, other, better)
        if gain is None:
            return None
        return 1 / gain if self.against == 'ring' else gain

    def met(self, value):
        return value >= self.limit if self.against in ('tcp', 'unix') else value <= self.limit


def how_much_better(ours, other, better):
    """How many times as good `ours` is as `other`; None if that makes no sense."""
    if not ours or not other:
        return None
    return other / ours if better == 'lower' else ours / other


@dataclasses.dataclass
class Metric:
    """One figure out of what a measurement gives."""
    key: str
    title: str
    unit: str
    better: str = 'lower'
    aims: tuple = ()


@dataclasses.dataclass
class Case:
    """`open(host, settings)` is a context manager that gives measure(variant) -> dict: the values of the metrics' keys,
    and whatever else is worth keeping. What a variant under the library is known to have moved helps to check that a
    ring did it: `payload_bytes` (at least so many) and `connections` (at least so many sessions).
    """
    name: str
    group: str
    metrics: list
    open: typing.Callable
    variants: tuple = VARIANTS
    never_halting: bool = False
    agent: str = 'default'      # the name of its configuration
    ring: bool = True           # whether ours must have used a ring; False: must not have
    seconds: float = 0          # how long one measurement takes, where that is not a matter of the settings


@dataclasses.dataclass
class Settings:
    seconds: float      # of one measurement
    quick: bool


def simple(measure):
    """The `open` of a case that has nothing to prepare: measure(host, settings, variant)."""
    @contextlib.contextmanager
    def opened(host, settings):
        yield lambda variant: measure(host, settings, variant)
    return opened
