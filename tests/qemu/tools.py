# SPDX-License-Identifier: MIT
"""qemu-img, qemu-io and qemu-nbd on volumes."""

import os

from harness import check, contains, expect, same


def raw_file(lab, name, size, *commands):
    path = lab.path(name)
    lab.img('create', '-q', '-f', 'raw', path, size)
    lab.io(path, *commands)
    return path


@check('qemu-img create and info: size, block size, and a volume that exists')
def create_info(lab):
    lab.create('v', '10M')
    facts = lab.info('archipelago:v')
    same((facts['virtual-size'], facts['format'], facts['cluster-size']),
         (10 << 20, 'raw', 4 << 20), 'facts')
    lab.create('w', '10M', '-o', 'block_size=64k')
    same(lab.info('archipelago:w')['cluster-size'], 64 << 10, 'block_size')
    lab.create('x', '10M', '-o', 'cluster_size=1M')
    same(lab.info('archipelago:x')['cluster-size'], 1 << 20, 'cluster_size')
    lab.io('archipelago:v', 'write -P 1 0 64k')
    contains(lab.img('create', '-f', 'raw', 'archipelago:v', '10M', fails=True), "'v'", 'already')
    lab.io('archipelago:v', 'read -P 1 0 64k')
    for option, word in (('block_size=5000', '5000'), ('block_size=128M', '134217728'),
                         ('block_size=64k,cluster_size=1M', 'two names')):
        contains(lab.img('create', '-f', 'raw', '-o', option, 'archipelago:bad', '1M',
                         fails=True), word)
    contains(lab.img('info', 'archipelago:bad', fails=True), 'bad')


@check('qemu-img create -o from= makes a clone that goes its own way')
def clone(lab):
    lab.create('v', '8M')
    lab.io('archipelago:v', 'write -P 1 0 8M')
    lab.img('snapshot', '-c', 's', 'archipelago:v')
    lab.io('archipelago:v', 'write -P 2 0 64k')
    lab.create('same', '0', '-o', 'from=v@s')
    same(lab.info('archipelago:same')['virtual-size'], 8 << 20, "the clone's size")
    lab.create('larger', '16M', '-o', 'from=v@s')
    lab.io('archipelago:larger', 'read -P 1 0 8M', 'read -P 0 8M 8M', 'write -P 3 4M 4k')
    lab.io('archipelago:same', 'read -P 1 0 8M', 'write -P 4 0 512')
    lab.io('archipelago:v', 'read -P 2 0 64k', 'read -P 1 64k 8128k')
    lab.io('archipelago:v@s', 'read -P 1 0 8M', options=('-r', '-f', 'raw'))
    contains(lab.img('create', '-f', 'raw', '-o', 'from=v@t', 'archipelago:n', '0',
                     fails=True), 't')


@check('qemu-img convert to a volume, from it, and -n into one that exists')
def convert(lab):
    path = raw_file(lab, 'a.raw', '20M', 'write -P 1 0 3M', 'write -P 2 9M 5000k')
    lab.img('convert', '-f', 'raw', '-O', 'raw', path, 'archipelago:v')
    lab.img('compare', '-f', 'raw', '-F', 'raw', path, 'archipelago:v')
    lab.img('convert', '-f', 'raw', '-O', 'raw', 'archipelago:v', lab.path('b.raw'))
    lab.img('compare', '-s', '-f', 'raw', '-F', 'raw', path, lab.path('b.raw'))
    contains(lab.img('convert', '-f', 'raw', '-O', 'raw', path, 'archipelago:v', fails=True),
             "'v'", 'already')
    lab.create('w', '20M')
    lab.io('archipelago:w', 'write -P 9 0 20M')
    lab.img('convert', '-n', '-f', 'raw', '-O', 'raw', path, 'archipelago:w')
    lab.img('compare', '-f', 'raw', '-F', 'raw', path, 'archipelago:w')
    lab.img('convert', '-f', 'raw', '-O', 'qcow2', 'archipelago:w', lab.path('c.qcow2'))
    lab.img('convert', '-W', '-m', '8', '-f', 'qcow2', '-O', 'raw', lab.path('c.qcow2'),
            'archipelago:x')
    lab.img('compare', '-f', 'raw', '-F', 'raw', path, 'archipelago:x')


@check('qemu-img resize: grown space is zero, --shrink is asked for, shrunk is gone')
def resize(lab):
    lab.create('v', '8M')
    lab.io('archipelago:v', 'write -P 1 0 8M')
    lab.img('resize', '-f', 'raw', 'archipelago:v', '+4M')
    lab.io('archipelago:v', 'read -P 1 0 8M', 'read -P 0 8M 4M')
    contains(lab.img('resize', '-f', 'raw', 'archipelago:v', '3M', fails=True), '--shrink')
    lab.img('resize', '--shrink', '-f', 'raw', 'archipelago:v', '3M')
    same(lab.info('archipelago:v')['virtual-size'], 3 << 20, 'size')
    lab.img('resize', '-f', 'raw', 'archipelago:v', '8M')
    lab.io('archipelago:v', 'read -P 1 0 3M', 'read -P 0 3M 5M')
    contains(lab.img('resize', '--preallocation=full', '-f', 'raw', 'archipelago:v', '16M',
                     fails=True), 'preallocation')


@check('qemu-img map shows data, and zeroes where nothing or zeroes were written')
def map_measure(lab):
    lab.create('v', '32M')
    lab.io('archipelago:v', 'write -P 1 4M 4M', 'write -z -u 16M 4M')
    found = [(e['start'], e['length'], e['zero'], e['data']) for e in lab.map('archipelago:v')]
    same(found, [(0, 4 << 20, True, False), (4 << 20, 4 << 20, False, True),
                 (8 << 20, 24 << 20, True, False)], 'map')
    text = lab.img('measure', '-f', 'raw', '-O', 'raw', 'archipelago:v')
    contains(text, f'fully allocated size: {32 << 20}')
    lab.img('measure', '-f', 'raw', '-O', 'qcow2', 'archipelago:v')


@check('qemu-img compare tells equal from different')
def compare(lab):
    for name in 'vw':
        lab.create(name, '8M')
        lab.io(f'archipelago:{name}', 'write -P 1 1M 100k')
    contains(lab.img('compare', '-f', 'raw', '-F', 'raw', 'archipelago:v', 'archipelago:w'),
             'identical')
    lab.io('archipelago:w', 'write -P 2 5M 512')
    contains(lab.img('compare', '-f', 'raw', '-F', 'raw', 'archipelago:v', 'archipelago:w',
                     fails=True), 'mismatch at offset 5242880')


@check('qemu-img dd copies a volume, and a part of one')
def copy(lab):
    lab.create('v', '8M')
    lab.io('archipelago:v', 'write -P 1 0 1M', 'write -P 2 1M 1M')
    lab.img('dd', '-f', 'raw', '-O', 'raw', 'bs=1M', 'if=archipelago:v', 'of=archipelago:w')
    lab.img('compare', '-f', 'raw', '-F', 'raw', 'archipelago:v', 'archipelago:w')
    lab.img('dd', '-f', 'raw', '-O', 'raw', 'bs=512k', 'skip=1', 'count=3', 'if=archipelago:v',
            'of=archipelago:x')
    lab.io('archipelago:x', 'read -P 1 0 512k', 'read -P 2 512k 512k')


@check('qemu-img snapshot: create, list, apply, delete; a snapshot is read-only')
def snapshots(lab):
    lab.create('v', '8M')
    lab.io('archipelago:v', 'write -P 1 0 1M')
    lab.img('snapshot', '-c', 'first', 'archipelago:v')
    lab.io('archipelago:v', 'write -P 2 0 1M')
    lab.img('snapshot', '-c', 'second', 'archipelago:v')
    lab.io('archipelago:v', 'write -P 3 0 1M')
    contains(lab.img('snapshot', '-c', 'first', 'archipelago:v', fails=True), 'first')
    listed = lab.img('snapshot', '-l', 'archipelago:v')
    expect(listed.index('first') < listed.index('second'), f'order: {listed}')
    lab.io('archipelago:v@first', 'read -P 1 0 1M', options=('-r', '-f', 'raw'))
    contains(lab.io('archipelago:v@second', 'write -P 9 0 1M', fails=True), 'read-only')
    lab.img('snapshot', '-a', 'first', 'archipelago:v')
    lab.io('archipelago:v', 'read -P 1 0 1M', 'write -P 4 0 64k')
    lab.img('snapshot', '-a', 'second', 'archipelago:v')
    lab.io('archipelago:v', 'read -P 2 0 1M')
    lab.img('snapshot', '-d', 'first', 'archipelago:v')
    expect('first' not in lab.img('snapshot', '-l', 'archipelago:v'), 'first is still listed')
    contains(lab.img('snapshot', '-d', 'first', 'archipelago:v', fails=True), 'first')
    contains(lab.img('snapshot', '-a', 'nosnap', 'archipelago:v', fails=True), 'nosnap')
    lab.io('archipelago:v', 'read -P 2 0 1M')


@check('applying a snapshot of another size brings its size back')
def rollback_size(lab):
    lab.create('v', '8M')
    lab.io('archipelago:v', 'write -P 1 7M 1M')
    lab.img('snapshot', '-c', 's', 'archipelago:v')
    lab.img('resize', '-f', 'raw', '--shrink', 'archipelago:v', '4M')
    lab.img('snapshot', '-a', 's', 'archipelago:v')
    same(lab.info('archipelago:v')['virtual-size'], 8 << 20, 'size')
    lab.io('archipelago:v', 'read -P 0 0 7M', 'read -P 1 7M 1M')


@check('qemu-img bench reads and writes many requests at a time')
def bench(lab):
    lab.create('v', '64M')
    for options in (['-w'], ['-w', '--flush-interval=64'], ['-w', '-t', 'none'], []):
        contains(lab.img('bench', '-f', 'raw', '-c', '2000', '-d', '32', '-S', '20480',
                         '--pattern=66', *options, 'archipelago:v'), 'Run completed')
    lab.io('archipelago:v', *(f'read -P 66 {n * 20480} 4k' for n in range(0, 2000, 97)))
    lab.io('archipelago:v', 'read -P 0 4k 16k')


@check('qemu-img check: raw has nothing to check, qcow2 on a volume has')
def image_check(lab):
    lab.create('v', '8M')
    contains(lab.img('check', '-f', 'raw', 'archipelago:v', fails=True), 'does not support')
    lab.img('create', '-q', '-f', 'qcow2', 'archipelago:q', '8M')
    contains(lab.img('check', '-f', 'qcow2', 'archipelago:q'), 'No errors')


@check('discard and zeroes read as zeroes, whatever their length and place')
def zeroes(lab):
    lab.create('v', '16M', '-o', 'block_size=64k')
    lab.io('archipelago:v', 'write -P 1 0 16M', 'discard 512 1k', 'discard 64k 1M',
           'write -z 2000k 3k', 'write -z -u 3M 100k', 'write -zf 4M 64k', 'flush')
    lab.io('archipelago:v', 'read -P 1 0 512', 'read -P 0 512 1k', 'read -P 1 1536 62k',
           'read -P 0 64k 1M', 'read -P 0 2000k 3k', 'read -P 1 2003k 1069k',
           'read -P 0 3M 100k', 'read -P 0 4M 64k', 'read -P 1 4160k 12224k',
           options=('-f', 'raw', '-d', 'unmap'))


@check('qcow2 on a volume grows it, with many requests past its end at a time')
def qcow2_on_volume(lab):
    lab.img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', 'archipelago:q', '256M')
    small = lab.info('-f', 'raw', 'archipelago:q')['virtual-size']
    lab.img('bench', '-f', 'qcow2', '-w', '-c', '3000', '-d', '64', '-S', '65536',
            '--pattern=90', 'archipelago:q')
    expect(lab.info('-f', 'raw', 'archipelago:q')['virtual-size'] > small + (12 << 20),
           'the volume did not grow')
    contains(lab.img('check', '-f', 'qcow2', 'archipelago:q'), 'No errors')
    lab.io('archipelago:q', *(f'read -P 90 {n * 65536} 4k' for n in range(0, 3000, 131)),
           options=('-f', 'qcow2'))
    lab.img('snapshot', '-c', 'inner', 'archipelago:q')
    contains(lab.img('snapshot', '-l', 'archipelago:q'), 'inner')


@check('qcow2 over archipelago:base -F raw: reads through, commit writes back, rebase moves')
def qcow2_backing(lab):
    for name, pattern in (('base', 1), ('other', 2)):
        lab.create(name, '16M')
        lab.io(f'archipelago:{name}', f'write -P {pattern} 0 16M')
    for top in (lab.path('top.qcow2'), 'archipelago:top'):
        lab.img('create', '-q', '-f', 'qcow2', '-b', 'archipelago:base', '-F', 'raw', top)
        lab.io(top, 'read -P 1 0 16M', 'write -P 3 5M 64k', options=('-f', 'qcow2'))
        same(lab.info('-f', 'qcow2', top)['full-backing-filename'], 'archipelago:base',
             'backing file')
    lab.img('rebase', '-f', 'qcow2', '-b', 'archipelago:other', '-F', 'raw', 'archipelago:top')
    lab.io('archipelago:top', 'read -P 1 0 5M', 'read -P 3 5M 64k', 'read -P 1 6M 10M',
           options=('-f', 'qcow2'))
    lab.img('commit', '-q', '-f', 'qcow2', lab.path('top.qcow2'))
    lab.io('archipelago:base', 'read -P 1 0 5M', 'read -P 3 5M 64k', 'read -P 1 5184k 1M')
    lab.io('archipelago:other', 'read -P 2 0 16M')


@check('sizes that are no multiple of the block, of 4 KiB or of 512 bytes')
def odd_sizes(lab):
    for index, size in enumerate((512, 1000, 4096 + 512, (4 << 20) - 512, (4 << 20) + 512,
                                  (10 << 20) + 3 * 512 + 17)):
        name, path = f'archipelago:v{index}', lab.path(f'f{index}')
        whole = (size + 511) // 512 * 512
        for image in (name, path):
            lab.img('create', '-q', '-f', 'raw', image, size)
            same(lab.info('-f', 'raw', image)['virtual-size'], whole, f'size of {image}')
            lab.io(image, f'write -P 1 0 {whole}', f'write -P 2 {whole - 512} 512',
                   f'write -z {whole // 1024 * 512} 512', f'read -P 0 {whole // 1024 * 512} 512',
                   'flush')
        same(len(lab.io(name, f'write 0 {whole + 512}', fails=True)) > 0, True, 'words')
        lab.img('compare', '-s', '-f', 'raw', '-F', 'raw', name, path)
        lab.img('convert', '-f', 'raw', '-O', 'raw', name, lab.path('out'))
        same(os.path.getsize(lab.path('out')), whole, 'length of the copy')
        lab.img('resize', '-q', '-f', 'raw', name, whole + 1536)
        lab.io(name, f'read -P 0 {whole} 1536', f'write -P 5 {whole + 1024} 512')
        lab.img('resize', '-q', '--shrink', '-f', 'raw', name, whole)
        lab.img('compare', '-s', '-f', 'raw', '-F', 'raw', name, path)


@check('qemu-nbd in the background serves a volume')
def nbd(lab):
    lab.create('v', '8M')
    path = lab.path('nbd')
    lab.run('qemu-nbd', '--fork', '--discard=unmap', '-f', 'raw', '-k', path, '--pid-file', lab.path('pid'),
            'archipelago:v')
    url = f'nbd+unix:///?socket={path}'
    lab.io(url, 'write -P 1 1M 2M', 'discard 2M 4k', 'write -z 2100k 4k', 'flush',
           'read -P 1 1M 1M', 'read -P 0 2M 4k', 'read -P 0 2100k 4k')
    with open(lab.path('pid'), encoding='utf-8') as file:
        pid = int(file.read())
    deadline = 400
    while os.path.exists(f'/proc/{pid}') and deadline:    # it ends with its client
        lab.run('sleep', '0.05')
        deadline -= 1
    lab.io('archipelago:v', 'read -P 0 0 1M', 'read -P 1 1M 1M', 'read -P 0 2M 4k')
