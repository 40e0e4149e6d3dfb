# SPDX-License-Identifier: MIT
"""File names, json: names, and what is said of wrong ones."""

import json
import os
import random
import subprocess

from harness import check, contains, expect, same


@check('a volume, a snapshot and a store are named in a file name')
def file_names(lab):
    lab.create('v', '8M')
    lab.io('archipelago:v', 'write -P 1 0 64k')
    lab.img('snapshot', '-c', 's', 'archipelago:v')
    lab.io('archipelago:v', 'write -P 2 0 64k')
    lab.img('create', '-q', '-f', 'raw', 'archipelago:v/store=two', '4M')
    lab.io('archipelago:v@s', 'read -P 1 0 64k', options=('-r', '-f', 'raw'))
    lab.io('archipelago:v/snapshot=s', 'read -P 1 0 64k', options=('-r', '-f', 'raw'))
    lab.io('archipelago:v', 'read -P 2 0 64k')
    same(lab.info('archipelago:v/store=two')['virtual-size'], 4 << 20, 'size in store two')
    same(lab.info(f'archipelago:v/store=two:config={lab.config}')['virtual-size'],
         4 << 20, 'size with config')


@check("QEMU's own name of a volume is the one that was given")
def exact_names(lab):
    lab.create('v', '8M')
    lab.img('create', '-q', '-f', 'raw', 'archipelago:v/store=two', '4M')
    lab.img('snapshot', '-c', 's', 'archipelago:v')
    for name in ('archipelago:v', 'archipelago:v@s', 'archipelago:v/store=two',
                 f'archipelago:v/store=two:config={lab.config}',
                 f'archipelago:v/config={lab.config}'):
        same(lab.info('-f', 'raw', name)['filename'], name, 'filename')
    options = {'driver': 'raw', 'file': {'driver': 'archipelago', 'volume': 'v',
                                         'store': 'two'}}
    same(lab.info('json:' + json.dumps(options))['filename'], 'archipelago:v/store=two',
         'filename of a json: name')
    same(lab.info('archipelago:v/snapshot=s')['filename'], 'archipelago:v@s',
         'filename of /snapshot=')


@check('a json: name carries what a file name cannot')
def json_names(lab):
    lab.create('v', '8M')
    odd = lab.path('with:colon.toml')
    with open(lab.config, encoding='utf-8') as source, \
            open(odd, 'w', encoding='utf-8') as copy:
        copy.write(source.read())
    node = {'driver': 'archipelago', 'volume': 'v', 'config': odd}
    name = 'json:' + json.dumps({'driver': 'raw', 'file': node})
    lab.io(name, 'write -P 7 1M 64k', options=())
    lab.io('archipelago:v', 'read -P 7 1M 64k')
    found = lab.info(name)['filename']
    expect(found.startswith('json:'), f'{found} does not start with json:')
    same(json.loads(found[5:])['file'], node, 'file in the json: name')
    lab.io(found, 'read -P 7 1M 64k', options=())
    lab.img('info', '--image-opts', 'driver=raw,file.driver=archipelago,file.volume=v')


@check('a wrong file name is refused with words that say what is wrong')
def wrong_names(lab):
    lab.create('v', '8M')
    for name, *words in (
            ('archipelago:', 'volume', 'empty'),
            ('archipelago:v@', 'snapshot', 'empty'),
            ('archipelago:v/color=red', "'color'", 'store, snapshot and config'),
            ('archipelago:v/store', "'store'", 'key=value'),
            ('archipelago:v/store=', "'store'", 'empty'),
            ('archipelago:v/store=one:store=two', "'store'", 'twice'),
            ('archipelago:v@s/snapshot=t', "'snapshot'", 'twice'),
            ('archipelago:nobody', 'nobody'),
            ('archipelago:v@nosnap', 'nosnap'),
            ('archipelago:v/store=nostore', 'nostore'),
            ('archipelago:v/config=/nowhere/x.toml', '/nowhere/x.toml'),
            ('archipelago:-v', '-v'),
            ('archipelago:a b', 'a b')):
        contains(lab.img('info', name, fails=True), *words)
    contains(lab.img('info', '--image-opts',
                     'driver=archipelago,volume=v,color=red', fails=True), 'color')
    contains(lab.img('info', '--image-opts', 'driver=archipelago', fails=True), 'volume')
    contains(lab.run('qemu-io', '-c', 'quit', '-f', 'raw', 'archipelago:v/store', fails=True),
             'key=value')


def odd_names(dice, count):
    """File names like those that people write, with parts lost, doubled and mixed up."""
    parts = ('v', 's', 'w', '@', '/', ':', '=', 'store=', 'snapshot=', 'config=', 'two', 'one', 'mport=1',
             'volume=', '@s', '/store=two', ':snapshot=s', '%', '%00', '\\', '..', '-', '"', ',', ',,', '{',
             'x' * 127, 'y' * 600, '\u00e9', '\u202e', '\x01', '\x7f', '\t', '=' * 9, '/' * 9, ':' * 9)
    for _ in range(count):
        name = 'archipelago:' + ''.join(dice.choices(parts, k=dice.randrange(8)))
        if dice.random() < 0.3:
            at = dice.randrange(12, len(name) + 1)
            name = name[:at] + chr(dice.choice((*range(1, 10), *range(14, 256)))) + name[at:]
        # qemu-io takes lines of up to 1,023 bytes, and splits them at these.
        name = name.encode()[:900].decode(errors='ignore')
        yield name.replace(' ', '_').replace('\t', '_').replace('\n', '_').replace('\r', '_')


@check('whatever a file name has in it, it is taken apart or refused')
def fuzzed_names(lab):
    lab.create('v', '8M')
    lab.img('snapshot', '-c', 's', 'archipelago:v')
    seed = int(os.environ.get('SEED', random.randrange(1 << 32)))
    count = int(os.environ.get('NAMES', 4000))
    names = list(odd_names(random.Random(seed), count))
    lines = [line for name in names for line in (f'open -r {name}', 'close')]
    # Freed and fresh memory has a pattern, so that what looks at it is seen.
    env = dict(lab.env, MALLOC_PERTURB_='165', MALLOC_CHECK_='3')
    done = subprocess.run(['qemu-io'], input='\n'.join([*lines, 'open -r archipelago:v', 'length', 'quit', '']),
                          env=env, cwd=lab.dir, check=False, capture_output=True, text=True, timeout=600)
    expect(done.returncode in (0, 1), f'SEED={seed}: qemu-io ended with {done.returncode}: {done.stderr[-500:]}')
    expect('8 MiB' in done.stdout, f'SEED={seed}: not all names were tried: {done.stdout[-500:]}')
    refused = sum("can't open" in line for line in done.stderr.splitlines())
    # Some of them are right.
    expect(0.5 * count < refused < count, f'SEED={seed}: {refused} of {count} names were refused')


@check("the first Archipelago's mport, vport and segment are ignored with a warning")
def old_keys(lab):
    lab.create('v', '8M')
    text = lab.img('info', 'archipelago:v/mport=1001:vport=501:segment=archipelago')
    for key in ('mport', 'vport', 'segment'):
        contains(text, f"'{key}'", 'ignored')
    contains(text, 'image: archipelago:v\n')


@check('a backing file name that is relative is a volume of the same store')
def relative_backing(lab):
    lab.create('base', '8M')
    lab.io('archipelago:base', 'write -P 3 2M 64k')
    lab.img('create', '-q', '-f', 'qcow2', '-b', 'archipelago:base', '-F', 'raw',
            'archipelago:top')
    lab.img('rebase', '-u', '-f', 'qcow2', '-b', 'base', '-F', 'raw', 'archipelago:top')
    lab.io('archipelago:top', 'read -P 3 2M 64k', options=('-f', 'qcow2'))
