"""The fabric over real verbs. First in the order of names, since its first case wants a host without modules."""

import os
import subprocess

import harness
import roce

PROGRAM = harness.BUILD / 'tests/fabric/verbs'


def fabric(*arguments, **environment):
    done = subprocess.run([PROGRAM, *arguments], env=dict(os.environ, **environment), timeout=110, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    assert done.returncode == 0 and '[  PASSED  ]' in done.stdout


def test_a_host_without_modules():
    fabric('--without-device')


def test_what_the_seam_promises(rdma):
    # By hand it can be more often.
    fabric(rdma[0], FABRIC_RECONNECTS='300', FABRIC_REMOVE=roce.REMOVE_DEVICE, FABRIC_ADD=roce.ADD_DEVICE)
