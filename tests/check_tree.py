#!/usr/bin/env python3
"""Checks what keeps the parts apart. Names each offence as FILE:LINE: what is wrong; exit status 1 if there is any.

  - dependencies point one way: core <- preload | agent | ctl | examples <- tests
  - inside the agent only the fabric files know verbs, and only those that speak JSON know jansson
  - includes are written from the root; headers have #pragma once and compile alone
  - nothing in core uses a name that the preload library exports: there it would call itself

The last check needs the library core of a build (RDMA_BUILD, build/ by default).
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get('RDMA_BUILD', ROOT / 'build'))

# part: the other parts that it may include
MAY_INCLUDE = {
    'core': (),
    'preload': ('core',),
    'agent': ('core',),
    'ctl': ('core',),
    'examples': ('core',),
    'tests': ('core', 'preload', 'agent', 'ctl', 'examples'),
}

# A library's headers, by their beginning: the files, by their beginning, that may include them. Nobody else may.
LIBRARIES = {
    'infiniband/': ('agent/fabric_verbs', 'examples/verbs-'),
    'rdma/': ('agent/fabric_verbs', 'examples/verbs-'),
    'uv.h': ('agent/', 'tests/'),
    'jansson.h': ('agent/config', 'agent/control', 'agent/json', 'agent/rpc', 'ctl/', 'tests/'),
    'sodium.h': ('agent/secret',),
    'cmocka.h': ('tests/',),
}

# The same for headers of ours that bring such a library with them.
HEADERS = {
    'agent/fabric_verbs.h': ('agent/fabric_verbs',),
}

CFLAGS = ['-std=gnu11', '-D_GNU_SOURCE', '-I.', '-Wall', '-Wextra', '-Wno-unused-parameter', '-Werror']


def sources():
    """Every C file of ours, relative to the root."""
    for part in MAY_INCLUDE:
        for path in sorted((ROOT / part).rglob('*.[ch]')):
            yield path.relative_to(ROOT)


def includes(path):
    """The #include directives of a file: line number, '"' or '<', name."""
    text = (ROOT / path).read_text(errors='replace')
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if found:
            yield number, found.group(1), found.group(2)


def check_include(path, kind, name):
    """Says what is wrong with one include, or None."""
    part = path.parts[0]
    if kind == '<':
        for library, allowed in LIBRARIES.items():
            if name.startswith(library) and not str(path).startswith(allowed):
                return '<%s> may only be included by %s' % (name, ', '.join(allowed))
        return None
    if name in HEADERS and not str(path).startswith(HEADERS[name]):
        return '"%s" may only be included by %s' % (name, ', '.join(HEADERS[name]))
    if not (ROOT / name).is_file():
        return '"%s" is no file of the tree; includes are written from the root' % name
    other = Path(name).parts[0]
    if other != part and other not in MAY_INCLUDE[part]:
        return '%s may not include "%s"' % (part, name)
    return None


def offending_includes():
    for path in sources():
        for number, kind, name in includes(path):
            offence = check_include(path, kind, name)
            if offence:
                yield '%s:%d: %s' % (path, number, offence)


def package_flags():
    """Compiler flags of those packages that are there."""
    flags = []
    for package in 'libuv', 'jansson', 'libibverbs', 'librdmacm', 'cmocka':
        found = subprocess.run(['pkg-config', '--cflags', package], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if found.returncode == 0:
            flags += shlex.split(found.stdout.decode())
    return flags


def offending_headers():
    compiler = shlex.split(os.environ.get('CC', 'gcc')) + CFLAGS + package_flags()
    for path in sources():
        if path.suffix != '.h':
            continue
        if '#pragma once' not in (ROOT / path).read_text().splitlines():
            yield '%s:1: no #pragma once' % path
        # Twice: the second inclusion must be empty.
        compiled = subprocess.run(compiler + ['-fsyntax-only', '-x', 'c', '-'], cwd=ROOT, text=True,
                                  input='#include "%s"\n' % path * 2, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if compiled.returncode != 0:
            yield '%s:1: does not compile alone:\n%s' % (path, compiled.stdout)


def exported_names(map_file):
    """The global names of a linker version script, without patterns."""
    text = re.sub(r'/\*.*?\*/|#[^\n]*', '', map_file.read_text(), flags=re.DOTALL)
    names = set()
    for section in re.findall(r'global:(.*?)(?:local:|\})', text, re.DOTALL):
        names.update(name for name in re.split(r'[;\s]+', section) if name)
    return names


def undefined_names(library):
    """What each member of a static library wants from elsewhere: (member, name)."""
    listed = subprocess.run(['nm', '-A', '-u', library], stdout=subprocess.PIPE, check=True, text=True)
    for line in listed.stdout.splitlines():
        place, name = line.rsplit(None, 2)[0], line.rsplit(None, 1)[1]
        yield place.split(':')[1], name.split('@')[0]


def offending_names():
    map_file, library = ROOT / 'preload/preload.map', BUILD / 'core/libcore.a'
    if not map_file.exists():
        print('note: there is no preload/preload.map to check core against')
        return
    if not library.exists():
        yield '%s: not built; run scons first' % library
        return
    exported = exported_names(map_file)
    if not exported:
        yield '%s:1: no global names found' % map_file.relative_to(ROOT)
    for member, name in undefined_names(library):
        if name in exported:
            yield 'core/%s: calls %s, which the preload library exports; use core/sys.h' % (
                Path(member).with_suffix('.c'), name)


def main():
    offences = [*offending_includes(), *offending_headers(), *offending_names()]
    for offence in offences:
        print(offence)
    print('%d files checked, %d offences' % (len(list(sources())), len(offences)))
    return 1 if offences else 0


if __name__ == '__main__':
    sys.exit(main())
