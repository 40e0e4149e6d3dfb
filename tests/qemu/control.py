# SPDX-License-Identifier: MIT
"""The command on disks that QEMU holds, in the sandbox that libvirt puts it in.

What can go wrong: the socket's threads do what the sandbox forbids, and the
kernel ends the virtual machine; a snapshot by the command is another one than a
snapshot over QMP; QEMU cannot be told that a disk has grown; a daemon's disk is
reached, a machine's is not.
"""

import json
import os
import signal
import subprocess
import threading

from harness import DEADLINE_S, check, contains, expect, same

HERE = os.path.dirname(os.path.abspath(__file__))


def command(lab, *words, **how):
    return lab.run(os.environ['ARCHIPELAGO_PROG'], *words, **how)


def status(lab, name):
    return json.loads(command(lab, '--json', 'status', name, both=False))


def sandbox(lab):
    """A library that has the kernel end who loads it at the first call that it must not make."""
    library = lab.path('sandbox.so')
    lab.run('cc', '-Wall', '-Werror', '-shared', '-fPIC', '-o', library, f'{HERE}/sandbox.c')
    script = 'import os; os.fork()'
    ended = subprocess.run(['python3', '-c', script], env={**lab.env, 'LD_PRELOAD': library}, check=False)
    same(ended.returncode, -signal.SIGSYS, 'how somebody ends who forks in the sandbox')
    return library


@check('snapshot, resize and status of a disk of a sandboxed QEMU that writes')
def sandboxed(lab):
    lab.create('v', '64M')
    outside = dict(lab.env)
    lab.env = {**outside, 'LD_PRELOAD': sandbox(lab)}
    qemu = lab.qemu('-drive', 'file=archipelago:v,format=raw,if=none,id=d')
    lab.env = outside
    with open(f'/proc/{qemu.process.pid}/status', encoding='utf-8') as file:
        expect('Seccomp:\t2' in file.read(), 'QEMU is in no sandbox')
    expect('wrote' in qemu.io('d', 'write -P 1 0 1M'), 'no write')
    contains(command(lab, 'snapshot', 'v@one'), f'by process {qemu.process.pid} (qemu-system-')
    expect('wrote' in qemu.io('d', 'write -P 2 0 512k'), 'no write')
    ended = threading.Event()
    taken = []

    def take():
        while not ended.is_set():
            name = f't{len(taken)}'
            command(lab, 'snapshot', f'v@{name}')
            taken.append(name)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        for turn in range(200):
            expect('wrote' in qemu.io('d', f'write -P {turn % 256} 8M 64k'), 'no write')
            expect('read' in qemu.io('d', f'read -P {turn % 256} 8M 64k'), 'no read')
    finally:
        ended.set()
        thread.join()
    expect(len(taken) > 2, f'only {len(taken)} snapshots were taken')
    shown = qemu.qmp('query-block')[0]['inserted']['image']['snapshots']
    same([s['name'] for s in shown], ['one', *taken], 'snapshots in query-block')
    contains(command(lab, 'resize', 'v', '96M'), 'block_resize')
    qemu.qmp('block_resize', device='d', size=96 << 20)
    expect('wrote' in qemu.io('d', 'write -P 9 95M 1M'), 'what has grown cannot be written')
    contains(command(lab, 'resize', 'v', '8M', '--shrink', fails=True), 'block_resize')
    known = status(lab, 'v')
    same(known['size_bytes'], 96 << 20, 'size')
    same(known['lease']['holder']['pid'], qemu.process.pid, 'holder')
    expect(known['live']['served']['writes'] > 200, known)
    command(lab, 'rm', *(f'v@{name}' for name in taken))
    qemu.quit()
    lab.io('archipelago:v@one', 'read -P 1 0 1M', options=('-r', '-f', 'raw'))
    lab.io('archipelago:v', 'read -P 2 0 512k', 'read -P 1 512k 512k', 'read -P 9 95M 1M')
    same(os.listdir(lab.path('run')), [], 'sockets that are left')


@check('a storage daemon is asked about each of its disks; killed, it is not asked any more')
def storage_daemon(lab):
    for name in ('v', 'w'):
        lab.create(name, '8M')
    nodes = [word for name in ('v', 'w') for word in
             ('--blockdev', f'driver=archipelago,node-name={name},volume={name}')]
    daemon = lab.storage_daemon(*nodes)
    for name in ('v', 'w'):
        contains(command(lab, 'snapshot', f'{name}@s'), f'by process {daemon.process.pid} ')
    daemon.qmp('blockdev-del', node_name='v')
    contains(command(lab, 'status', 'v'), 'not in use')
    contains(command(lab, 'snapshot', 'w@t'), 'by process')
    daemon.process.kill()
    daemon.process.wait()
    contains(command(lab, 'status', 'w'), 'crashed')
    expect('by process' not in command(lab, 'snapshot', 'w@u'), 'a dead process was asked')


@check('a machine of another user is asked through a folder that it could write to')
def other_user(lab):
    if os.geteuid() != 0:
        return
    lab.create('v', '8M')
    os.mkdir(lab.path('run'))
    os.chmod(lab.path('run'), 0o1777)
    os.chmod(lab.dir, 0o755)
    subprocess.run(['chown', '-R', 'nobody:nogroup', lab.path('one')], check=True)
    words = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', 'qemu-io', '-f', 'raw',
             'archipelago:v']
    with subprocess.Popen(words, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, cwd=lab.dir) as other:
        try:
            other.stdin.write('write -P 1 0 64k\n')
            other.stdin.flush()
            line = ''
            while 'wrote' not in line:
                line = other.stdout.readline()
                expect(line, f'qemu-io has ended: {other.poll()}')
            contains(command(lab, 'snapshot', 'v@s'), f'by process {other.pid} ')
        finally:
            other.communicate('quit\n', timeout=DEADLINE_S)


@check('a disk goes to another store and back under a sandboxed QEMU that writes')
def moved(lab):
    lab.create('v', '64M')
    command(lab, 'snapshot', 'v@empty')
    outside = dict(lab.env)
    lab.env = {**outside, 'LD_PRELOAD': sandbox(lab)}
    qemu = lab.qemu('-drive', 'file=archipelago:v,format=raw,if=none,id=d,cache=none')
    lab.env = outside
    for at in range(16):
        expect('wrote' in qemu.io('d', f'write -P {at + 1} {at}M 1M'), 'no write')
    ended = threading.Event()
    said = []

    def move():
        for store in ('two', 'one', 'two'):
            said.append(command(lab, 'move', 'v', store))
        ended.set()

    thread = threading.Thread(target=move)
    thread.start()
    turn = 0
    while not ended.is_set() or turn < 100:
        expect(turn < 100_000 and (thread.is_alive() or ended.is_set()), f'the moves have failed: {said}')
        turn += 1
        expect('wrote' in qemu.io('d', f'write -P {turn % 251} {32 + turn % 16}M 64k'), 'no write')
        expect('read' in qemu.io('d', f'read -P {turn % 251} {32 + turn % 16}M 64k'), 'other bytes')
        expect('read' in qemu.io('d', f'read -P {turn % 16 + 1} {turn % 16}M 1M'), 'other bytes')
    thread.join()
    contains(said[2], "is in store 'two' now")
    same(status(lab, 'v')['lease']['holder']['pid'], qemu.process.pid, 'holder')
    qemu.quit()
    # By the name that it was given, and where it is.
    for name in ('archipelago:v', 'archipelago:v/store=two'):
        lab.io(name, *(f'read -P {at + 1} {at}M 1M' for at in range(16)))
    contains(command(lab, 'ls'), "in store 'two'")
    for store in ('one', 'two'):
        contains(command(lab, '--store', store, 'check'), 'no damage')
