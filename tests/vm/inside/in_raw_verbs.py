"""The examples that need a device."""

import json
import re
import subprocess

import harness

PROGRAM = harness.BUILD / 'examples/verbs-pingpong'
PORT = 18600


def client(address, *options):
    done = subprocess.run([PROGRAM, '--host', address, '--port', str(PORT), '--json', '--warmup', '20',
                           *options], timeout=40,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.returncode, done.stdout, done.stderr


def test_verbs_pingpong(rdma):
    with subprocess.Popen([PROGRAM, '--server', '--port', str(PORT), '--clients', '4'], stdout=subprocess.PIPE,
                          text=True) as server:
        assert server.stdout.readline() == f'listening on 0.0.0.0:{PORT}\n'
        for options in [], ['--sleep'], ['--size', '1'], ['--size', '100000']:
            code, out, err = client(rdma[0], '--count', '50', *options)
            assert code == 0 and json.loads(out)['round_trips'] == 50, err
        assert server.wait(20) == 0
    code, _, err = client(rdma[0])
    assert code == 1 and 'is it a verbs-pingpong server?' in err


def test_the_classic_table(rdma):
    done = subprocess.run([harness.ROOT / 'examples/classic-table.sh', '--seconds', '0.3'], timeout=60, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    row = re.search(r'^localhost +\d+/s, [\d.]+ us +(\S+)', done.stdout, re.MULTILINE)
    assert done.returncode == 0 and row and row.group(1) != '-', done.stdout
