# SPDX-License-Identifier: MIT
"""Names that are wrong or lead nowhere, stores that are not there, doors that are shut."""

import os
import shutil
import subprocess

from faces import (BUSY, DENIED, MISSING, THERE, WRONG, Unchanged, ask, command, digest, everywhere, io)
from harness import Skip, check, expect, same


@check('an unknown volume or snapshot is named, with its store and what lists the known ones')
def unknown_volume(lab):
    lab.create('v', '1M')
    with Unchanged(lab.path('one')):
        for answer in everywhere(lab, 'archipelago:nobody', 'nobody'):
            answer.refused("'nobody'", 'one', 'archipelago.toml', 'archipelago ls')
        for answer in everywhere(lab, 'archipelago:v@never', 'v@never'):
            answer.refused('never')
        command(lab, 'info', 'nobody').refused(code=MISSING)
        for words in (['rm', 'nobody'], ['rename', 'nobody', 'x'], ['resize', 'nobody', '1G'], ['map', 'nobody'],
                      ['snapshot', 'nobody@s'], ['clone', 'v@never', 'x'], ['rollback', 'v@never'],
                      ['lease', 'show', 'nobody']):
            command(lab, *words).refused(words[1].split('@')[-1] if words[1] == 'v@never' else 'nobody',
                                         code=MISSING)
        command(lab, 'create', 'v', '1M').refused("'v'", code=THERE)


@check('a malformed name, option or size is quoted, and changes nothing')
def malformed(lab):
    lab.create('v', '1M')
    with Unchanged(lab.path('one')):
        for image, words in {'archipelago:.v': '.v', 'archipelago:': '', 'archipelago:v@': '',
                             'archipelago:-v': '-v', 'archipelago:a b': 'a b', 'archipelago:v/nothing': 'nothing',
                             'archipelago:v/colour=red': 'colour', 'archipelago:v@a@b': 'a@b',
                             'archipelago:' + 'x' * 129: '128', 'archipelago:v/store=/srv': '/srv'}.items():
            for answer in everywhere(lab, image):
                answer.refused(words)
        for words in (['info', '.v'], ['create', 'a/b', '1M'], ['create', 'a', '1X'], ['create', 'a', '-1'],
                      ['create', 'a', '1M', '--block-size', '100000'], ['create', 'a', '9999P'],
                      ['snapshot', 'v'], ['snapshot', 'v@a b'], ['rollback', 'v'], ['clone', 'v', 'w'],
                      ['resize', 'v', 'x'], ['frobnicate'], ['info', 'v', '--colour']):
            command(lab, *words).refused(code=WRONG)
        command(lab, 'resize', 'v', '512K').refused('--shrink', code=WRONG)
        ask(lab, 'qemu-img', 'create', '-f', 'raw', '-o', 'colour=red', 'archipelago:x', '1M').refused('colour')
        ask(lab, 'qemu-img', 'create', '-f', 'raw', '-o', 'from=v', 'archipelago:x', '1M').refused('SNAPSHOT')


@check('a store that is not configured, not made or gone is named with the file that configures it')
def missing_store(lab):
    def answers(store):
        yield from everywhere(lab, f'archipelago:v/store={store}')
        yield command(lab, '--store', store, 'ls')
        yield command(lab, '--store', store, 'create', 'v', '1M')

    for answer in answers('three'):
        answer.refused("'three'", 'archipelago.toml', 'stores.three')
    with open(lab.config, 'a', encoding='utf-8') as file:
        file.write(f'[stores.three]\nurl = "dir:{lab.path("three")}"\n')
    for answer in answers('three'):
        answer.refused("'three'", lab.path('three'), 'archipelago init')
    expect(not os.path.exists(lab.path('three')), 'a store was made where none was meant')
    os.mkdir(lab.path('three'))
    with open(lab.path('three/other'), 'w', encoding='utf-8') as file:
        file.write('not ours')
    with Unchanged(lab.path('three')):
        for answer in answers('three'):
            answer.refused("'three'")
    with open(lab.config, 'a', encoding='utf-8') as file:
        file.write('colour = "red"\n')
    for answer in answers('three'):
        answer.refused('archipelago.toml', 'line ', 'colour')
    lab.env['ARCHIPELAGO_CONFIG'] = lab.path('nowhere.toml')
    for answer in answers('one'):
        answer.refused('nowhere.toml')


def programs_for_all(lab):
    """The programs where another user can run them, and how."""
    if os.getuid() != 0 or not shutil.which('setpriv'):
        raise Skip('only root can become another user here')
    folder = lab.path('bin')
    os.mkdir(folder)
    library = next(path for path in os.environ['LD_LIBRARY_PATH'].split(':')
                   if os.path.exists(f'{path}/libarchipelago.so.0'))
    for source in (f'{os.environ["ARCHIPELAGO_QEMU"]}/bin/qemu-img', f'{os.environ["ARCHIPELAGO_QEMU"]}/bin/qemu-io',
                   os.environ['ARCHIPELAGO_PROG'], f'{library}/libarchipelago.so.0'):
        shutil.copy(source, folder)
    for path in (lab.dir, folder):
        os.chmod(path, 0o755)
    env = {**lab.env, 'LD_LIBRARY_PATH': folder, 'HOME': '/nonexistent'}

    def other(program, *words):
        return ask(lab, 'setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', f'{folder}/{program}',
                   *words, env=env)

    probe = other('qemu-img', '--version')
    if probe.code != 0:
        raise Skip(f'another user cannot run what is in {lab.dir}: {probe.text.strip()}')
    return other


@check('a user without permission is told so, names the place, and changes nothing')
def no_permission(lab):
    lab.create('v', '1M')
    lab.io('archipelago:v', 'write -P 1 0 64k')
    other = programs_for_all(lab)
    store = lab.path('one')
    with Unchanged(store):
        for mode in (0o700, 0o750):
            os.chmod(store, mode)
            for words in (['qemu-img', 'info', 'archipelago:v'], ['archipelago', 'info', 'v'],
                          ['qemu-io', '-f', 'raw', '-c', 'write 0 512', 'archipelago:v'],
                          ['archipelago', 'create', 'w', '1M'], ['archipelago', 'rm', 'v']):
                answer = other(*words).refused('ermission denied', store)
                expect(words[0] != 'archipelago' or answer.code == DENIED, answer.story)
        # It may look, and no more.
        subprocess.run(['chmod', '-R', 'a+rX,go-w', store], check=True)
        for words in (['qemu-io', '-f', 'raw', '-c', 'write 0 512', 'archipelago:v'],
                      ['archipelago', 'create', 'w', '1M'], ['archipelago', 'snapshot', 'v@s'],
                      ['archipelago', 'rm', 'v']):
            answer = other(*words).refused('ermission denied')
            expect(words[0] != 'archipelago' or answer.code == DENIED, answer.story)
    lab.io('archipelago:v', 'read -P 1 0 64k', 'write -P 2 0 64k')


@check('a volume in use: everybody is told by whom, the holder and other volumes go on')
def in_use(lab):
    lab.create('v', '8M')
    lab.create('w', '8M')
    lab.io('archipelago:v', 'write -P 1 0 1M')
    command(lab, 'snapshot', 'v@s').worked()
    qemu = lab.qemu('-drive', 'file=archipelago:v,if=none,id=d,format=raw')
    expect('wrote' in qemu.io('d', 'write -P 2 0 64k'), 'the holder cannot write')
    qemu.io('d', 'flush')
    named = f'process {qemu.process.pid} '
    before = digest(lab.path('one/head'))
    for answer in everywhere(lab, 'archipelago:v'):
        answer.refused(named, "'v'", 'archipelago lease show v')
    for words in (['rm', 'v', '--snapshots'], ['rollback', 'v@s'], ['resize', 'v', '4M', '--shrink']):
        command(lab, *words).refused("'v'", code=BUSY)
    command(lab, 'lease', 'break', 'v').refused(named, code=BUSY)
    same(digest(lab.path('one/head')), before, 'the heads of the store')
    # What needs no lease works beside it.
    lab.io('archipelago:v@s', 'read -P 1 0 1M', options=('-r', '-f', 'raw'))
    command(lab, 'info', 'v').worked()
    ask(lab, 'qemu-img', 'info', '-U', 'archipelago:v').worked()
    lab.io('archipelago:w', 'write -P 3 0 1M')
    expect('wrote' in qemu.io('d', 'write -P 4 1M 64k'), 'the holder cannot write any more')
    qemu.quit()
    io(lab, 'archipelago:v', 'read -P 2 0 64k', 'read -P 4 1M 64k').worked()
