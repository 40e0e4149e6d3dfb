# SPDX-License-Identifier: MIT
"""-blockdev and QMP: snapshots, creation, reopen, jobs, handing over."""

import json
import subprocess

from harness import DEADLINE_S, check, contains, expect, same


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
    contains(create('v', size=8 << 20), "'v'", 'already')
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


@check('reopen: read-only lets others read, read-write takes the volume or says who has it')
def reopen(lab):
    lab.create('v', '8M')
    daemon = lab.storage_daemon()
    options = {'driver': 'archipelago', 'node-name': 'v', 'volume': 'v'}

    def again(fails=False, **more):
        return daemon.qmp('blockdev-reopen', fails=fails, options=[{**options, **more}])

    serve(daemon, lab)
    daemon.qmp('blockdev-add', **{k.replace('-', '_'): v for k, v in options.items()})
    reader = ('-r', '-f', 'raw')
    lab.io('archipelago:v', 'read 0 4k', options=reader, fails=True)
    again(**{'read-only': True})
    lab.io('archipelago:v', 'read 0 4k', options=reader)
    holder = lab.storage_daemon(*volume('h', 'v', **{'read-only': True}))
    contains(again(fails=True, **{'read-only': False}), 'in use')
    holder.quit()
    again(**{'read-only': False})
    url = export(daemon, lab, 'v', 'v')
    lab.io(url, 'read -P 0 0 64k', 'write -P 2 64k 64k', 'flush')
    contains(lab.io('archipelago:v', 'write 0 4k', fails=True), 'in use')
    contains(again(fails=True, cache={'direct': True}), 'cache.direct')
    contains(again(fails=True, volume='w'), 'volume')
    lab.io(url, 'write -P 3 128k 64k')
    daemon.quit()
    lab.io('archipelago:v', 'read -P 0 0 64k', 'read -P 2 64k 64k', 'read -P 3 128k 64k')


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


@check('block_resize makes a disk in use smaller; grown again, it shows zeroes')
def shrink_in_use(lab):
    lab.create('v', '16M', '-o', 'block_size=64k')
    qemu = lab.qemu('-drive', 'file=archipelago:v,format=raw,if=none,id=d')

    def size():
        return qemu.qmp('query-block')[0]['inserted']['image']['virtual-size']

    expect('wrote' in qemu.io('d', 'write -P 1 0 16M'), 'no write')
    qemu.qmp('block_resize', device='d', size=(5 << 20) + 512)
    same(size(), (5 << 20) + 512, 'size')
    qemu.qmp('block_resize', device='d', size=16 << 20)
    same(size(), 16 << 20, 'size')
    for command in ('read -P 1 0 5243392', 'read -P 0 5243392 11533824', 'write -P 2 15M 1M'):
        said = qemu.io('d', command)
        expect('ops' in said and 'failed' not in said, f'{command}: {said}')
    qemu.qmp('block_resize', device='d', size=8 << 20)
    qemu.quit()
    same(lab.info('archipelago:v')['virtual-size'], 8 << 20, 'size')
    lab.io('archipelago:v', 'read -P 1 0 5243392', 'read -P 0 5243392 3145216')


@check('qcow2 on a volume: what block_resize cuts off makes the volume smaller')
def shrink_qcow2(lab):
    lab.img('create', '-q', '-f', 'qcow2', 'archipelago:q', '16M')
    daemon = lab.storage_daemon(*volume('v', 'q'), '--blockdev', 'qcow2,node-name=d,file=v')
    serve(daemon, lab)
    lab.io(export(daemon, lab, 'd', 'd'), 'write -P 1 0 16M', 'flush')
    daemon.qmp('block-export-del', id='d')
    large = lab.info('-f', 'raw', '-U', 'archipelago:q')['virtual-size']
    while daemon.qmp('query-block-exports'):
        pass
    daemon.qmp('block_resize', node_name='d', size=4 << 20)
    daemon.qmp('block_resize', node_name='d', size=16 << 20)
    lab.io(export(daemon, lab, 'd', 'd'), 'read -P 1 0 4M', 'read -P 0 4M 12M', 'write -P 2 15M 1M')
    daemon.quit()
    expect(large - lab.info('-f', 'raw', 'archipelago:q')['virtual-size'] >= 8 << 20, 'nothing was cut off')
    contains(lab.img('check', '-f', 'qcow2', 'archipelago:q'), 'No errors')
    lab.io('archipelago:q', 'read -P 1 0 4M', 'read -P 0 4M 11M', 'read -P 2 15M 1M', options=('-f', 'qcow2'))


@check('a read-only node that becomes active reads beside other readers')
def read_only_active(lab):
    lab.create('v', '8M')
    daemon = lab.storage_daemon(*volume('v', 'v', active=False, **{'read-only': True}))
    daemon.qmp('blockdev-set-active', node_name='v', active=True)
    lab.io('archipelago:v', 'read -P 0 0 64k', options=('-r', '-f', 'raw'))
    daemon.qmp('blockdev-set-active', node_name='v', active=False)
    lab.io('archipelago:v', 'write -P 1 0 64k')
    daemon.quit()


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


@check('a volume whose last sector is not whole reads as zeroes beyond its end')
def part_of_a_sector(lab):
    daemon = lab.storage_daemon()
    daemon.qmp('blockdev-create', job_id='j', options={
        'driver': 'archipelago', 'location': {'volume': 'v'}, 'size': 4096 + 100})
    same(daemon.job('j'), None, 'error')
    daemon.quit()
    lab.io('archipelago:v', 'read -P 0 0 4608', options=('-r', '-f', 'raw'))
    same(lab.map('archipelago:v'), [{
        'start': 0, 'length': 4608, 'depth': 0, 'present': True, 'zero': True, 'data': False,
        'compressed': False, 'offset': 0}], 'map')
    lab.io('archipelago:v', 'write -P 1 0 4000', 'read -P 1 0 4000', 'read -P 0 4000 608')
    lab.io('archipelago:v', 'discard 4096 512', 'read -P 0 4000 608')
    same(lab.info('-f', 'raw', 'archipelago:v')['virtual-size'], 4608, 'size for QEMU')
    lab.io('archipelago:v', 'write -P 2 4096 512', 'read -P 2 4096 512', 'read -P 1 0 4000')
    lab.img('resize', '-q', '-f', 'raw', 'archipelago:v', '8k')
    lab.io('archipelago:v', 'read -P 2 4096 512', 'read -P 0 4608 3584')


@check('exports in I/O threads of their own serve many requests at a time')
def io_threads(lab):
    for name in 'vw':
        lab.create(name, '64M')
    daemon = lab.storage_daemon('--object', 'iothread,id=t1', '--object', 'iothread,id=t2',
                                *volume('v', 'v'), *volume('w', 'w'))
    serve(daemon, lab)
    urls = [export(daemon, lab, name, name, iothread=thread, fixed_iothread=True)
            for name, thread in (('v', 't1'), ('w', 't2'))]
    benches = [subprocess.Popen(
        ['qemu-img', 'bench', '-f', 'raw', '-w', '-c', '3000', '-d', '64', '-S', '20480',
         '--pattern', str(65 + n), url], env=lab.env, stdout=subprocess.DEVNULL)
        for n, url in enumerate(urls)]
    same([bench.wait(DEADLINE_S) for bench in benches], [0, 0], 'exit of the benches')
    for n, url in enumerate(urls):
        lab.io(url, *(f'read -P {65 + n} {k * 20480} 4k' for k in range(0, 3000, 101)))
    daemon.quit()
    for n, name in enumerate('vw'):
        lab.io(f'archipelago:{name}', *(f'read -P {65 + n} {k * 20480} 4k'
                                        for k in range(0, 3000, 101)), 'read -P 0 4k 16k')


@check('vhost-user-blk: a QEMU without the driver has the disk of a storage daemon')
def vhost_user(lab):
    lab.create('v', '8M')
    path = lab.path('vub')
    lab.storage_daemon(
        '--object', 'iothread,id=t', *volume('v', 'v'), '--export',
        f'type=vhost-user-blk,id=e,node-name=v,writable=on,num-queues=2,iothread=t,'
        f'addr.type=unix,addr.path={path}')
    qemu = lab.qemu('-S', '-object', 'memory-backend-memfd,id=m,size=64M,share=on',
                    '-chardev', f'socket,id=c,path={path}',
                    '-device', 'vhost-user-blk-pci,id=disk,chardev=c,num-queues=2',
                    '-m', '64M', machine='q35,memory-backend=m')
    same(qemu.qmp('qom-get', path='/machine/peripheral/disk', property='num-queues'), 2, 'queues')
    same(qemu.errors(), '', "QEMU's words")
    qemu.quit()
