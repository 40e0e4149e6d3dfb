# SPDX-License-Identifier: MIT
"""A full disk: the guest hears ENOSPC, nothing acknowledged is lost, and it goes on."""

import os
import subprocess
import threading
import time

from faces import NO_SPACE, command, gc, io
from harness import Skip, check, expect

ROOM = 32 << 20


class Small:
    """A file system of little room below the lab, with a store `small` on it."""

    def __init__(self, lab, more=''):
        self.path = lab.path('small')
        os.mkdir(self.path)
        mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={ROOM}', 'tmpfs', self.path],
                                 check=False, capture_output=True, text=True)
        if mounted.returncode != 0:
            raise Skip(f'no file system of little room can be mounted: {mounted.stderr.strip()}')
        with open(lab.config, 'a', encoding='utf-8') as file:
            file.write(f'[stores.small]\nurl = "dir:{self.path}/store"\nblock_size = "64K"\nlog_limit = "16M"\n'
                       f'{more}')

    def fill(self):
        with open(f'{self.path}/filler', 'ab', buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    pass

    def empty(self):
        os.unlink(f'{self.path}/filler')

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        subprocess.run(['umount', '--lazy', self.path], check=False)


def drives(lab):
    return lab.qemu('-drive', 'file=archipelago:v/store=small,if=none,id=small,format=raw',
                    '-drive', 'file=archipelago:other,if=none,id=other,format=raw')


def wrote(text):
    expect('wrote' in text, f'no write: {text}')


def full(text):
    expect('No space left on device' in text, f'not ENOSPC: {text}')


@check('a full store: the guest hears ENOSPC, its other disk goes on, and so does this one with room')
def enospc(lab):
    with Small(lab) as small:
        command(lab, '--store', 'small', 'init').worked()
        lab.create('v/store=small', '64M')
        lab.create('other', '8M')
        lab.io('archipelago:v/store=small', 'write -P 1 0 4M')
        command(lab, '--store', 'small', 'snapshot', 'v@s').worked()
        qemu = drives(lab)
        wrote(qemu.io('small', 'write -P 2 0 64k'))
        wrote(qemu.io('small', 'write -P 2 8M 1M'))
        expect(qemu.io('small', 'flush') == '', 'no flush')
        small.fill()
        for round in range(3):
            full(qemu.io('small', f'write -P 3 {16 + round}M 1M'))
            wrote(qemu.io('other', f'write -P {4 + round} 0 1M'))
            expect(qemu.io('other', 'flush') == '', 'no flush of the other disk')
            expect(qemu.io('small', 'read -P 2 0 64k').startswith('read'), 'no read when full')
            expect(qemu.io('small', 'read -P 1 1M 1M').startswith('read'), 'no read when full')
        # Small writes go to the log until that has no room either.
        words = ''
        for at in range(4096):
            words = qemu.io('small', f'write -P 5 {2 * 1024 + at * 4}k 4k')
            if 'wrote' not in words:
                break
        full(words)
        small.empty()
        wrote(qemu.io('small', 'write -P 6 16M 1M'))
        wrote(qemu.io('small', 'write -P 6 1M 4k'))
        expect(qemu.io('small', 'flush') == '', 'no flush with room again')
        qemu.quit()
        io(lab, 'archipelago:v/store=small', 'read -P 2 0 64k', 'read -P 2 8M 1M', 'read -P 6 16M 1M',
           'read -P 6 1M 4k', 'read -P 1 1028k 1020k').worked()
        io(lab, 'archipelago:v@s/store=small', 'read -P 1 0 4M', options=('-r', '-f', 'raw')).worked()


@check('a full store that is told to wait: the guest\'s write ends when there is room')
def waits(lab):
    with Small(lab, 'when_full = "wait"\n') as small:
        command(lab, '--store', 'small', 'init').worked()
        lab.create('v/store=small', '64M')
        lab.create('other', '8M')
        lab.io('archipelago:v/store=small', 'write -P 1 0 4M')
        qemu = drives(lab)
        wrote(qemu.io('small', 'write -P 2 8M 1M'))
        small.fill()
        room = threading.Timer(4, small.empty)
        room.start()
        began = time.monotonic()
        wrote(qemu.io('small', 'write -P 3 16M 1M'))
        expect(time.monotonic() - began > 3.5, 'it did not wait')
        room.join()
        expect(qemu.io('small', 'flush') == '', 'no flush')
        expect(qemu.io('small', 'read -P 3 16M 1M').startswith('read'), 'not what was written')
        qemu.quit()
        io(lab, 'archipelago:v/store=small', 'read -P 1 0 4M', 'read -P 2 8M 1M', 'read -P 3 16M 1M').worked()


@check('the command on a full store: creating says so, removing makes room')
def commands(lab):
    with Small(lab) as small:
        command(lab, '--store', 'small', 'init').worked()
        lab.create('v/store=small', '64M')
        lab.io('archipelago:v/store=small', 'write -P 1 0 8M')
        small.fill()
        with open(lab.path('image'), 'wb') as image:
            image.write(os.urandom(8 << 20))
        command(lab, '--store', 'small', 'import', lab.path('image'), 'i').refused('no space left', code=NO_SPACE)
        command(lab, '--store', 'small', 'ls').worked()
        expect("'i'" not in command(lab, '--store', 'small', 'ls').text, 'half an import is left')
        command(lab, '--store', 'small', 'rm', 'v').worked()
        if not gc(lab, '--store', 'small'):
            raise Skip('gc is not built into this version')
        gc(lab, '--store', 'small')
        # Half of what went: an import needs a log segment and pages beside its blocks.
        os.truncate(lab.path('image'), 4 << 20)
        command(lab, '--store', 'small', 'import', lab.path('image'), 'i').worked()
