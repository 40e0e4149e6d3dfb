# SPDX-License-Identifier: MIT
"""-blockdev and QMP: snapshots, creation, reopen, jobs, handing over."""

import json

from harness import check, contains, expect, same


def volume(node, name, **more):
    return '--blockdev', json.dumps({'driver': 'archipelago', 'node-name': node,
                                     'volume': name, 'discard': 'unmap', **more})


def export(daemon, lab, node, name, **more):
    daemon.qmp('block-export-add', type='nbd', id=name, name=name, node_name=node,
               writable=True, **more)
    return f'nbd+unix:///{name}?socket={lab.path("nbd-" + daemon.name)}'


def serve(daemon, lab):
    daemon.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': lab.path('nbd-' + daemon.name)}})


@check('blockdev-snapshot-internal-sync takes a snapshot of a disk in use')
def internal_snapshot(lab):
    lab.create('v', '8M')
    qemu = lab.qemu('-drive', 'file=archipelago:v,format=raw,if=none,id=d')
    expect('wrote' in qemu.io('d', 'write -P 1 0 1M'), 'no write')
    qemu.qmp('blockdev-snapshot-internal-sync', device='d', name='one')
    expect('wrote' in qemu.io('d', 'write -P 2 0 512k'), 'no write')
    qemu.qmp('blockdev-snapshot-internal-sync', device='d', name='two')
    words = qemu.qmp('blockdev-snapshot-internal-sync', fails=True, device='d', name='one')
    contains(words, 'one')
    expect('wrote' in qemu.io('d', 'write -P 3 0 64k'), 'no write')
    shown = qemu.qmp('query-block')[0]['inserted']['image']['snapshots']
    same([s['name'] for s in shown], ['one', 'two'], 'snapshots in query-block')
    qemu.qmp('blockdev-snapshot-delete-internal-sync', device='d', name='two')
    expect('read' in qemu.io('d', 'read -P 3 0 64k'), 'no read')
    qemu.quit()
    lab.io('archipelago:v', 'read -P 3 0 64k', 'read -P 2 64k 448k', 'read -P 1 512k 512k')
    lab.io('archipelago:v@one', 'read -P 1 0 1M', options=('-r', '-f', 'raw'))
    contains(lab.img('info', 'archipelago:v@two', fails=True), 'two')


@check('blockdev-create makes volumes and clones, and says why it cannot')
def blockdev_create(lab):
    daemon = lab.storage_daemon()

    def create(volume_name, **options):
        daemon.qmp('blockdev-create', job_id='j', options={
            'driver': 'archipelago', 'location': {'volume': volume_name}, **options})
        return daemon.job('j')

    same(create('v', size=8 << 20, **{'block-size': 65536}), None, 'error')
    same(lab.info('archipelago:v')['cluster-size'], 65536, 'block-size')
    lab.io('archipelago:v', 'write -P 1 0 8M')
    lab.img('snapshot', '-c', 's', 'archipelago:v')
    same(create('w', size=0, **{'from': 'v@s'}), None, 'error')
    lab.io('archipelago:w', 'read -P 1 0 8M')
    contains(create('v', size=8 << 20), 'exists')
    contains(create('x', size=8 << 20, **{'block-size': 5000}), '5000')
    daemon.qmp('blockdev-create', job_id='j', options={
        'driver': 'archipelago', 'size': 0, 'location': {'volume': 'y', 'snapshot': 's'}})
    contains(daemon.job('j'), 'snapshot')
    daemon.quit()


@check('blockdev-add, and the words for a snapshot that is to be written')
def blockdev_add(lab):
    lab.create('v', '8M')
    lab.img('snapshot', '-c', 's', 'archipelago:v')
    daemon = lab.storage_daemon()
    options = {'driver': 'archipelago', 'volume': 'v', 'snapshot': 's'}
    contains(daemon.qmp('blockdev-add', fails=True, node_name='a', **options), 'read-only')
    daemon.qmp('blockdev-add', node_name='b', read_only=True, **options)
    daemon.qmp('blockdev-add', node_name='c', auto_read_only=True, **options)
    nodes = {n['node-name']: n for n in daemon.qmp('query-named-block-nodes')}
    same((nodes['b']['ro'], nodes['c']['ro']), (True, True), 'ro')
    same(nodes['c']['file'], 'archipelago:v@s', 'file of the node')
    contains(daemon.qmp('blockdev-add', fails=True, driver='archipelago', node_name='d',
                        volume='nobody'), 'nobody')
    daemon.qmp('blockdev-del', node_name='b')
    daemon.qmp('blockdev-del', node_name='c')
    daemon.quit()


@check('reopen: read-only gives the volume up, read-write takes it or says who has it')
def reopen(lab):
    lab.create('v', '8M')
    daemon = lab.storage_daemon()
    options = {'driver': 'archipelago', 'node-name': 'v', 'volume': 'v'}

    def again(fails=False, **more):
        return daemon.qmp('blockdev-reopen', fails=fails, options=[{**options, **more}])

    serve(daemon, lab)
    daemon.qmp('blockdev-add', **{k.replace('-', '_'): v for k, v in options.items()})
    contains(lab.io('archipelago:v', 'write 0 4k', fails=True), 'in use')
    again(**{'read-only': True})
    lab.io('archipelago:v', 'write -P 1 0 64k')
    holder = lab.storage_daemon(*volume('h', 'v'))
    contains(again(fails=True, **{'read-only': False}), 'in use')
    holder.quit()
    again(**{'read-only': False})
    url = export(daemon, lab, 'v', 'v')
    lab.io(url, 'read -P 1 0 64k', 'write -P 2 64k 64k', 'flush')
    contains(lab.io('archipelago:v', 'write 0 4k', fails=True), 'in use')
    contains(again(fails=True, cache={'direct': True}), 'cache.direct')
    contains(again(fails=True, volume='w'), 'volume')
    lab.io(url, 'write -P 3 128k 64k')
    daemon.quit()
    lab.io('archipelago:v', 'read -P 1 0 64k', 'read -P 2 64k 64k', 'read -P 3 128k 64k')


@check('two storage daemons hand a volume over with blockdev-set-active, and back')
def hand_over(lab):
    lab.create('v', '64M')
    source = lab.storage_daemon(*volume('v', 'v'))
    serve(source, lab)
    url = export(source, lab, 'v', 'v')
    lab.io(url, 'write -P 1 0 8M')
    target = lab.storage_daemon(*volume('v', 'v', active=False))
    serve(target, lab)
    for turn in range(2, 8):
        at = f'{turn * 4}M'
        words = target.qmp('blockdev-set-active', fails=True, node_name='v', active=True)
        contains(words, 'in use')
        lab.io(url, f'write -P {turn} {at} 1M', f'write -P {turn + 100} {turn * 4096} 4k')
        source.qmp('block-export-del', id='v')
        source.qmp('blockdev-set-active', node_name='v', active=False)
        target.qmp('blockdev-set-active', node_name='v', active=True)
        url = export(target, lab, 'v', 'v')
        lab.io(url, *(f'read -P {n} {n * 4}M 1M' for n in range(2, turn + 1)),
               *(f'read -P {n + 100} {n * 4096} 4k' for n in range(2, turn + 1)))
        source, target = target, source
    source.quit()
    target.quit()
    lab.io('archipelago:v', 'read -P 1 0 8k', 'read -P 1 1M 7M',
           *(f'read -P {n} {n * 4}M 1M' for n in range(2, 8)))


@check('a hand-over that fails half-way leaves the source able to go on')
def hand_over_back(lab):
    lab.create('v', '8M')
    source = lab.storage_daemon(*volume('v', 'v'))
    target = lab.storage_daemon(*volume('v', 'v', active=False))
    source.qmp('blockdev-set-active', node_name='v', active=False)
    target.kill()
    source.qmp('blockdev-set-active', node_name='v', active=True)
    serve(source, lab)
    lab.io(export(source, lab, 'v', 'v'), 'write -P 1 0 1M', 'flush')
    source.quit()
    lab.io('archipelago:v', 'read -P 1 0 1M')


@check('an inactive node shows a size that has changed, once it is active')
def hand_over_resize(lab):
    lab.create('v', '8M')
    source = lab.storage_daemon(*volume('v', 'v'))
    target = lab.storage_daemon(*volume('v', 'v', active=False))
    source.qmp('block_resize', node_name='v', size=16 << 20)
    source.qmp('blockdev-set-active', node_name='v', active=False)
    target.qmp('blockdev-set-active', node_name='v', active=True)
    serve(target, lab)
    lab.io(export(target, lab, 'v', 'v'), 'write -P 1 15M 1M', 'read -P 0 8M 1M')
    target.quit()
    source.quit()


@check('blockdev-mirror moves a disk in use to another volume, the job ends clean')
def mirror(lab):
    lab.create('v', '32M')
    lab.create('w', '32M')
    lab.io('archipelago:v', 'write -P 1 0 32M')
    lab.io('archipelago:w', 'write -P 9 0 32M')
    daemon = lab.storage_daemon(*volume('v', 'v'), *volume('w', 'w'))
    serve(daemon, lab)
    url = export(daemon, lab, 'v', 'v')
    daemon.qmp('blockdev-mirror', job_id='m', device='v', target='w', sync='full',
               auto_dismiss=False, auto_finalize=True)
    lab.io(url, 'write -P 2 3M 64k', 'write -z 20M 4M', 'write -P 3 31M 1M')
    while not any(e['event'] == 'BLOCK_JOB_READY' for e in daemon.events):
        daemon.qmp('query-jobs')
    daemon.qmp('job-complete', id='m')
    same(daemon.job('m'), None, 'error of the job')
    daemon.quit()
    lab.io('archipelago:w', 'read -P 1 0 3M', 'read -P 2 3M 64k', 'read -P 0 20M 4M',
           'read -P 3 31M 1M')


@check('block-commit of an overlay writes into the volume below')
def commit(lab):
    lab.create('base', '8M')
    lab.io('archipelago:base', 'write -P 1 0 8M')
    top = lab.path('top.qcow2')
    lab.img('create', '-q', '-f', 'qcow2', '-b', 'archipelago:base', '-F', 'raw', top)
    qemu = lab.qemu('-drive', f'file={top},format=qcow2,if=none,id=d')
    lab.io('archipelago:base', 'read -P 1 0 8M', options=('-r', '-f', 'raw'))
    expect('wrote' in qemu.io('d', 'write -P 2 1M 1M'), 'no write')
    qemu.qmp('block-commit', job_id='c', device='d', auto_dismiss=False)
    while not any(e['event'] == 'BLOCK_JOB_READY' for e in qemu.events):
        qemu.qmp('query-jobs')
    qemu.qmp('job-complete', id='c')
    same(qemu.job('c'), None, 'error of the job')
    expect('wrote' in qemu.io('d', 'write -P 3 3M 1M'), 'no write after the commit')
    qemu.quit()
    lab.io('archipelago:base', 'read -P 1 0 1M', 'read -P 2 1M 1M', 'read -P 1 2M 1M',
           'read -P 3 3M 1M')
