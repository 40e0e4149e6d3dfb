# SPDX-License-Identifier: MIT
"""A flipped bit in each kind of object, an object that is gone, a store from the future."""

import glob
import os
import shutil
import struct
import subprocess

from faces import Unchanged, command, everywhere, gc, io
from harness import check, expect

MASK = 0xffffffff
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
ENVELOPE_BYTES = 56


def blake3_of_one_block(data):
    """BLAKE3 of at most 64 bytes: enough for a `store` object."""
    words = list(struct.unpack('<16I', data.ljust(64, b'\0')))
    state = [*IV, *IV[:4], 0, 0, len(data), 1 | 2 | 8]

    def mix(a, b, c, d, first, second):
        for word, left, right in ((first, 16, 12), (second, 8, 7)):
            state[a] = (state[a] + state[b] + word) & MASK
            state[d] = turn(state[d] ^ state[a], left)
            state[c] = (state[c] + state[d]) & MASK
            state[b] = turn(state[b] ^ state[c], right)

    def turn(value, bits):
        return (value >> bits | value << (32 - bits)) & MASK

    columns = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
               (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
    for _ in range(7):
        for at, column in enumerate(columns):
            mix(*column, words[2 * at], words[2 * at + 1])
        words = [words[at] for at in ORDER]
    return struct.pack('<8I', *(state[at] ^ state[at + 8] for at in range(8)))


def sealed(content, version):
    """An object's content with another version and a checksum that fits."""
    front = content[:8] + struct.pack('<I', version) + content[12:24]
    payload = content[ENVELOPE_BYTES:]
    return front + blake3_of_one_block(front + payload) + payload


# Not what was written last: nothing after it in the log says that it was durable, so
# that damage there cannot be told from a write that was cut off.
CONTENT = ('read -P 1 0 64k', 'read -P 2 64k 4k', 'read -P 1 68k 60k', 'read -P 1 129k 63k', 'read -P 3 200k 1000', 'read -P 1 4M 64k')


def furnish(lab):
    """A store with every kind of object: own and shared blocks, pieces in the log of a dead holder."""
    command(lab, 'create', 'v', '8M', '--block-size', '64K').worked()
    lab.io('archipelago:v', 'write -P 1 0 256k', 'write -P 1 4M 64k', 'flush')
    command(lab, 'snapshot', 'v@s').worked()
    command(lab, 'clone', 'v@s', 'c').worked()
    gc(lab)
    qemu = lab.storage_daemon('--blockdev', 'driver=archipelago,volume=v,node-name=v',
                              '--nbd-server', f'addr.type=unix,addr.path={lab.path("nbd")}',
                              '--export', 'type=nbd,id=e,node-name=v,writable=on,name=v')
    lab.io(f'nbd:unix:{lab.path("nbd")}:exportname=v', 'write -P 2 64k 4k', 'write -P 3 200k 1000', 'flush',
           'write -P 4 128k 512', 'flush')
    qemu.kill()
    os.rename(lab.path('one'), lab.path('whole'))
    restore(lab)


def restore(lab):
    shutil.rmtree(lab.path('one'), ignore_errors=True)
    subprocess.run(['cp', '-a', '--sparse=always', lab.path('whole'), lab.path('one')], check=True)


def places(path):
    """Offsets whose bits are flipped: of the version, in the middle of what is not zero, at its end."""
    with open(path, 'rb') as file:
        content = file.read()
    end = len(content.rstrip(b'\0'))
    return sorted({9, end // 2, end - 1})


def flip(path, offset):
    with open(path, 'r+b') as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def reads(lab, kind, where):
    """Each face gives the true content or says what is wrong; never other content."""
    refusals = 0
    snapshot = ('read -P 1 0 256k', 'read -P 1 4M 64k')
    for image, commands, options in (('archipelago:v@s', snapshot, ('-r', '-f', 'raw')),
                                     ('archipelago:c', snapshot, ('-r', '-f', 'raw')),
                                     ('archipelago:v', CONTENT, ('-f', 'raw'))):
        answer = io(lab, image, *commands, options=options, where=where)
        if answer.code == 0 and 'failed' not in answer.text:
            continue
        refusals += 1
        said = answer.text.lower()
        expect(any(word in said for word in ('damaged', 'newer archipelago', 'input/output error')),
               f'{where}: no clear words: {answer.story}')
        if 'input/output error' not in said or "can't open" in said:
            expect(f'{kind}' in answer.text, f'{where}: the object is not named: {answer.story}')
    return refusals


def kinds(lab):
    """Files of each kind, newest last. Blocks carry no checksum: their bytes are the guest's."""
    found = {}
    for kind in ('store', 'volume', 'head', 'log', 'map', 'snapshot', 'lease', 'epoch', 'maintenance'):
        paths = [path for path in glob.glob(f'{lab.path("whole")}/{kind}/**', recursive=True) if os.path.isfile(path)]
        if os.path.isfile(lab.path(f'whole/{kind}')):
            paths.append(lab.path(f'whole/{kind}'))
        # Only gc makes the last.
        expect(paths or kind == 'maintenance', f'the store has no {kind}')
        found[kind] = sorted(paths)
    return found


@check('a flipped bit in any object but a block is found or harmless, and flipped back all is there')
def flipped_bit(lab):
    furnish(lab)
    refusals = {}
    for kind, paths in kinds(lab).items():
        for whole in sorted({*paths[:1], *paths[-1:]}):
            path = whole.replace(lab.path('whole'), lab.path('one'), 1)
            for offset in places(whole):
                restore(lab)
                flip(path, offset)
                where = f'bit flipped at {offset} of {os.path.relpath(path, lab.path("one"))}'
                refusals[kind] = refusals.get(kind, 0) + reads(lab, kind, where)
                if os.path.exists(path):
                    flip(path, offset)
                io(lab, 'archipelago:v', *CONTENT, where=f'{where}, and back').worked()
    print(f'     refused: {refusals}')
    # These stand between a reader and the content: damage to them cannot go unnoticed.
    for kind in ('store', 'volume', 'head', 'log', 'map', 'snapshot'):
        expect(refusals[kind], f'no flipped bit in a {kind} was noticed')


@check('a damaged volume does not keep its neighbours from working')
def neighbours(lab):
    lab.create('v', '1M')
    lab.create('w', '1M')
    lab.io('archipelago:w', 'write -P 1 0 64k')
    lab.io('archipelago:v', 'write -P 1 0 64k')
    path = lab.path('one/volume/v')
    flip(path, 60)
    for answer in everywhere(lab, 'archipelago:v', 'v'):
        answer.refused('volume/v', 'damaged')
    lab.io('archipelago:w', 'read -P 1 0 64k', 'write -P 2 0 64k')
    lab.create('x', '1M')
    flip(path, 60)
    lab.io('archipelago:v', 'read -P 1 0 64k')


@check('a store from a newer version is left alone, with the word that a newer program is needed')
def newer(lab):
    lab.create('v', '1M')
    lab.io('archipelago:v', 'write -P 1 0 64k')
    path = lab.path('one/store')
    with open(path, 'rb') as file:
        content = file.read()
    expect(sealed(content, 1) == content, 'the checksum of the store object is another one')
    os.chmod(path, 0o600)
    with open(path, 'wb') as file:
        file.write(sealed(content, 99))
    with Unchanged(lab.path('one')):
        for answer in [*everywhere(lab, 'archipelago:v', 'v'), command(lab, 'ls'), command(lab, 'create', 'w', '1M')]:
            answer.refused('version 99', 'newer archipelago')
    with open(path, 'wb') as file:
        file.write(content)
    lab.io('archipelago:v', 'read -P 1 0 64k')


@check('a map page or a block that is gone is damage, not zeroes')
def gone(lab):
    furnish(lab)
    for kind in ('map', 'block'):
        for whole in glob.glob(f'{lab.path("whole")}/{kind}/**', recursive=True):
            if not os.path.isfile(whole):
                continue
            restore(lab)
            os.unlink(whole.replace(lab.path('whole'), lab.path('one'), 1))
            wrong = io(lab, 'archipelago:v@s', 'read -P 1 0 256k', 'read -P 1 4M 64k', options=('-r', '-f', 'raw'))
            both = [wrong, io(lab, 'archipelago:v', *CONTENT)]
            expect(any('failed' in answer.text or answer.code for answer in both),
                   f'{os.path.relpath(whole, lab.path("whole"))} is gone and nobody noticed')
