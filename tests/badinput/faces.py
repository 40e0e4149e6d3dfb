# SPDX-License-Identifier: MIT
"""The ways into a volume, and what they answer."""

import hashlib
import os
import subprocess

from harness import DEADLINE_S, contains, expect

# What the command's exit codes mean (archipelago --help).
WRONG, MISSING, THERE, BUSY, DENIED, NO_SPACE, DAMAGED = 2, 3, 4, 5, 6, 7, 8


class Answer:
    """How a program ended and what it said."""

    def __init__(self, command, done):
        self.command = ' '.join(map(str, command))
        self.code, self.text = done.returncode, done.stdout.decode(errors='replace')
        self.story = f'{self.command}: exit {self.code}: {self.text.strip()}'
        expect(self.code >= 0, f'died of a signal: {self.story}')
        expect('panicked' not in self.text, f'panicked: {self.story}')

    def refused(self, *parts, code=None):
        """It failed, with these words and, of the command, this exit code."""
        # qemu-io in its older forms says what is wrong and ends well.
        failed = self.code != 0 or 'failed:' in self.text
        expect(failed, f'should have failed: {self.story}')
        contains(self.story, *parts)
        if code is not None:
            expect(self.code == code, f'exit {code} was due: {self.story}')
        return self

    def worked(self):
        failed = self.code != 0 or 'failed' in self.text
        expect(not failed, f'should have worked: {self.story}')
        return self


def ask(lab, *command, env=None):
    done = subprocess.run([str(part) for part in command], env=env or lab.env, cwd=lab.dir, check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=DEADLINE_S)
    return Answer(command, done)


def command(lab, *words, env=None):
    return ask(lab, os.environ['ARCHIPELAGO_PROG'], *words, env=env)


def io(lab, image, *commands, options=('-f', 'raw'), where=''):
    words = [part for line in commands for part in ('-c', line)]
    answer = ask(lab, 'qemu-io', *options, *words, image)
    expect('Pattern verification failed' not in answer.text, f'{where}: other content: {answer.story}')
    return answer


def everywhere(lab, image, target=None):
    """The answers of every face for a volume, those of the command last."""
    answers = [ask(lab, 'qemu-img', 'info', image), io(lab, image, 'read 0 512'),
               io(lab, image, 'read 0 512', options=('-r', '-f', 'raw')),
               io(lab, image, 'write -P 5 0 512'),
               ask(lab, 'qemu-img', 'convert', '-f', 'raw', '-O', 'raw', image, lab.path('copy'))]
    if target:
        answers += [command(lab, 'info', target), command(lab, 'export', '--force', target, lab.path('copy'))]
    return answers


def gc(lab, *words):
    """Whether this version has it."""
    answer = command(lab, *words, 'gc')
    if 'not built into this version' in answer.text:
        return False
    answer.worked()
    return True


def digest(path):
    """Of every file below a folder, by name and content. Not leases: who holds a volume
    while it finds out that it has nothing to do has still held it."""
    total = hashlib.sha256()
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(set(folders) - {'lease', 'lock'})
        for name in sorted(files):
            with open(os.path.join(folder, name), 'rb') as file:
                total.update(f'{folder}/{name}\0'.encode() + hashlib.sha256(file.read()).digest())
    return total.hexdigest()


class Unchanged:
    """A store that must be the same at the end of the block."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.before = digest(self.path)

    def __exit__(self, kind, error, trace):
        if kind is None:
            expect(digest(self.path) == self.before, f'{self.path} was changed')
