#!/bin/sh
# Installs what the tests need, builds every variant and runs every test. The last line sums it all up.
#
#   --fast      only the default variant: no sanitizers
#   --werror    warnings are errors
set -eu
cd "$(dirname "$0")/.."
tests/setup.sh

# The python of the packages just installed, should another one come first in PATH.
python=/usr/bin/python3
[ -x "$python" ] || python=python3
exec "$python" tests/run.py --all "$@"
