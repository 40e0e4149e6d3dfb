# SPDX-License-Identifier: MIT
"""-drive: formats, cache modes, read-only, snapshot=on; who may write."""

from harness import check, contains, expect, same


def drive(image, *options):
    return '-drive', ','.join((f'file={image}', 'if=none', 'id=d', *options))


def wrote(text):
    expect('wrote' in text, f'no write: {text}')


def read(text):
    expect(text.startswith('read') and 'failed' not in text, f'no such content: {text}')


@check('-drive works without format=raw, with QEMU\'s warning, and without one with it')
def drive_format(lab):
    lab.create('v', '8M')
    qemu = lab.qemu(*drive('archipelago:v'))
    wrote(qemu.io('d', 'write -P 1 64k 64k'))
    contains(qemu.errors(), 'format was not specified', 'raw')
    qemu.quit()
    qemu = lab.qemu(*drive('archipelago:v', 'format=raw'))
    read(qemu.io('d', 'read -P 1 64k 64k'))
    same(qemu.errors(), '', 'words of a QEMU with format=raw')
    qemu.quit()


@check('every cache mode writes, flushes and shows what it is')
def cache_modes(lab):
    modes = {'none': (True, True, False), 'writeback': (True, False, False),
             'writethrough': (False, False, False), 'directsync': (False, True, False),
             'unsafe': (True, False, True)}
    lab.create('v', '8M')
    for index, (mode, flags) in enumerate(modes.items()):
        qemu = lab.qemu(*drive('archipelago:v', 'format=raw', f'cache={mode}'))
        wrote(qemu.io('d', f'write -P {index + 1} {index}M 1M'))
        wrote(qemu.io('d', f'write -P {index + 101} {index * 1048576 + 512} 512'))
        same(qemu.io('d', 'flush'), '', f'answer to flush with cache={mode}')
        read(qemu.io('d', f'read -P {index + 101} {index * 1048576 + 512} 512'))
        shown = qemu.qmp('query-block')[0]['inserted']['cache']
        same((shown['writeback'], shown['direct'], shown['no-flush']), flags, f'cache={mode}')
        qemu.quit()
    for index in range(len(modes)):
        lab.io('archipelago:v', f'read -P {index + 1} {index}M 512',
               f'read -P {index + 101} {index * 1048576 + 512} 512',
               f'read -P {index + 1} {index * 1048576 + 1024} 1023k')


@check('readonly=on refuses writes, and two may read at once')
def read_only(lab):
    lab.create('v', '8M')
    lab.io('archipelago:v', 'write -P 9 0 64k')
    both = [lab.qemu(*drive('archipelago:v', 'format=raw', 'readonly=on')) for _ in '12']
    for qemu in both:
        read(qemu.io('d', 'read -P 9 0 64k'))
        expect('wrote' not in qemu.io('d', 'write -P 8 0 64k'), 'a read-only drive was written')
    lab.io('archipelago:v', 'read -P 9 0 64k', options=('-r', '-f', 'raw'))


@check('snapshot=on keeps its writes to itself')
def snapshot_on(lab):
    lab.create('v', '8M')
    lab.io('archipelago:v', 'write -P 4 0 1M')
    qemu = lab.qemu(*drive('archipelago:v', 'format=raw', 'snapshot=on'))
    wrote(qemu.io('d', 'write -P 5 0 64k'))
    read(qemu.io('d', 'read -P 5 0 64k'))
    read(qemu.io('d', 'read -P 4 64k 64k'))
    qemu.quit()
    lab.io('archipelago:v', 'read -P 4 0 1M')


@check('one process writes: the next is told who it is, and -U may look')
def one_writer(lab):
    lab.create('v', '8M')
    qemu = lab.qemu(*drive('archipelago:v', 'format=raw'))
    wrote(qemu.io('d', 'write -P 1 0 64k'))
    words = lab.io('archipelago:v', 'write -P 2 0 64k', fails=True)
    contains(words, "v", 'in use')
    contains(lab.run('qemu-img', 'resize', '-f', 'raw', 'archipelago:v', '16M', fails=True),
             'in use')
    same(lab.info('-U', '-f', 'raw', 'archipelago:v')['virtual-size'], 8 << 20, 'size by -U')
    wrote(qemu.io('d', 'write -P 3 64k 64k'))
    read(qemu.io('d', 'read -P 1 0 64k'))
    qemu.quit()
    lab.io('archipelago:v', 'read -P 1 0 64k', 'read -P 3 64k 64k', 'write -P 2 0 64k')


@check('a process that was killed holds nothing up, and what it flushed is there')
def killed_writer(lab):
    lab.create('v', '8M')
    qemu = lab.qemu(*drive('archipelago:v', 'format=raw'))
    wrote(qemu.io('d', 'write -P 1 0 1M'))
    same(qemu.io('d', 'flush'), '', 'answer to flush')
    qemu.kill()
    lab.io('archipelago:v', 'read -P 1 0 1M', 'write -P 2 0 64k')


@check('share-rw=on on one device works')
def share_rw(lab):
    lab.create('v', '8M')
    qemu = lab.qemu('-S', *drive('archipelago:v', 'format=raw'),
                    '-device', 'virtio-blk-pci,drive=d,share-rw=on', machine='q35')
    wrote(qemu.io('d', 'write -P 1 0 64k'))
    qemu.quit()


@check('guests with 512-byte and with 4 KiB sectors are given the disk')
def sector_sizes(lab):
    for name, logical, physical in (('a', 512, 512), ('b', 512, 4096), ('c', 4096, 4096)):
        lab.create(name, '8M')
        qemu = lab.qemu(
            '-S', '-object', 'iothread,id=t',
            *drive(f'archipelago:{name}', 'format=raw', 'cache=none'),
            '-device', f'virtio-blk-pci,drive=d,iothread=t,logical_block_size={logical},'
                       f'physical_block_size={physical}', machine='q35')
        wrote(qemu.io('d', f'write -P 6 {logical} {logical}'))
        read(qemu.io('d', f'read -P 6 {logical} {logical}'))
        qemu.quit()
