"""Soft-RoCE in this guest."""

import subprocess

import guest

DEVICE = 'rxe0'
ADDRESSES = '10.9.0.1', '10.9.0.2'      # both are the device's: one for each host
ADD_DEVICE = f'rdma link add {DEVICE} type rxe netdev v0'
REMOVE_DEVICE = f'rdma link del {DEVICE}'


def run(command):
    return subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60).stdout


def load_modules(*names):
    run(f'modprobe -d {guest.MODULES} -a {" ".join(names)}')


def set_up():
    # Without the first, adding a device fails.
    load_modules('crc32_generic', 'dummy', 'veth', 'rdma_rxe', 'rdma_ucm', 'ib_uverbs')
    run('ip link add v0 type dummy')
    for address in ADDRESSES:
        run(f'ip address add {address}/24 dev v0')
    run('ip link set v0 up')
    run(ADD_DEVICE)
