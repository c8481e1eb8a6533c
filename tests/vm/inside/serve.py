#!/usr/bin/python3
"""A guest that is one host: sets up its network card, soft-RoCE on it and an agent, then does what it is told.

Orders come as files order-1, order-2, ... in the results directory, each a JSON array of a method of Guest and its
arguments; what comes of it goes into answer-1 and so on. tests/vm/test_two_guests.py gives the orders.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / 'e2e')]

import guest  # noqa: E402
import harness  # noqa: E402
import roce  # noqa: E402

KEY = 'a key for two guests, each a host\n'
RESULTS = Path(guest.RESULTS)


class Guest:
    def __init__(self, name, address, peer, peer_address):
        roce.load_modules('crc32_generic', 'rdma_rxe', 'rdma_ucm', 'ib_uverbs')
        roce.run(f'ip address add {address}/24 dev eth0 && ip link set eth0 mtu 4200 up')
        roce.run(f'rdma link add {roce.DEVICE} type rxe netdev eth0')
        self.host = harness.Host(plain=True)
        self.host.plain = False
        self.host._place_library()
        key = self.host.home / 'key'
        key.write_text(KEY)
        key.chmod(0o600)
        self.host.write_config({**harness.EAGER, 'rdma': {'name': name, 'listen': [address]},
                                'peers': [{'name': peer, 'address': peer_address, 'key_file': str(key)}]})
        self.host.start_agent()
        self.programs = {}

    def start(self, name, command):
        self.programs[name] = self.host.spawn(command)

    def serve(self, name, command, port):
        self.programs[name] = self.host.serve(command, port)

    def running(self, name):
        return self.programs[name].running()

    def wait(self, name, seconds):
        result = self.programs[name].wait(seconds, check=False)
        return {'code': result.code, 'out': result.out, 'err': result.err}

    def call(self, method):
        return self.host.call(method)

    def agent_log(self):
        return self.host.daemon.err()


def write(name, value):
    path = RESULTS / f'{name}.new'
    path.write_text(json.dumps(value))
    path.rename(RESULTS / name)


def obey(served, order):
    method, *arguments = order
    try:
        return {'result': getattr(served, method)(*arguments)}
    except BaseException:
        return {'error': traceback.format_exc()}


def main():
    served = Guest(*sys.argv[1:])
    write('answer-0', {'result': None})
    number = 1
    while True:
        path = RESULTS / f'order-{number}'
        if not path.exists():
            time.sleep(0.05)
            os.stat(RESULTS)
            continue
        order = json.loads(path.read_text())
        if order == ['end']:
            return
        write(f'answer-{number}', obey(served, order))
        number += 1


main()
