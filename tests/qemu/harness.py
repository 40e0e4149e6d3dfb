# SPDX-License-Identifier: MIT
"""What tests/qemu/behaviour needs: a store per check, QEMU's tools, QMP."""

import json
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback

CHECKS = []
DEADLINE_S = 120


class Skip(Exception):
    """This check cannot be made here; the reason is its message."""


def check(story):
    """Registers a function that takes a Lab; it fails by raising."""
    def register(function):
        CHECKS.append((story, function))
        return function
    return register


def expect(condition, words):
    if not condition:
        raise AssertionError(words)


def same(found, wanted, what):
    expect(found == wanted, f'{what}: {found!r} instead of {wanted!r}')


def contains(text, *parts):
    for part in parts:
        expect(part in text, f'{part!r} is not in: {text.strip()!r}')


class Lab:
    """A store of its own, a scratch directory and the processes started."""

    def __init__(self, directory):
        self.dir = directory
        self.daemons = []
        self.config = self.path('archipelago.toml')
        with open(self.config, 'w', encoding='utf-8') as file:
            file.write('default_store = "one"\n\n'
                       f'[stores.one]\nurl = "dir:{self.path("one")}"\n\n'
                       f'[stores.two]\nurl = "dir:{self.path("two")}"\n')
        self.env = dict(os.environ, ARCHIPELAGO_CONFIG=self.config,
                        ARCHIPELAGO_RUN_DIR=self.path('run'))
        self.env['PATH'] = os.environ['ARCHIPELAGO_QEMU'] + '/bin:' + os.environ['PATH']
        for store in ('one', 'two'):
            self.run(os.environ['ARCHIPELAGO_PROG'], '--store', store, 'init')

    def path(self, name):
        return os.path.join(self.dir, name)

    def run(self, *command, fails=False, both=True):
        """The output of a command that must succeed, or must fail."""
        done = subprocess.run(
            [str(part) for part in command], env=self.env, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            text=True, timeout=DEADLINE_S, cwd=self.dir)
        words = f'{" ".join(map(str, command))}: exit {done.returncode}: ' \
                f'{done.stdout}{done.stderr or ""}'
        expect(done.returncode >= 0, f'died of a signal: {words}')
        expect((done.returncode != 0) == fails, words)
        return done.stdout

    def img(self, *arguments, **how):
        return self.run('qemu-img', *arguments, **how)

    def info(self, *arguments):
        return json.loads(self.img('info', '--output=json', *arguments, both=False))

    def map(self, *arguments):
        return json.loads(self.img('map', '--output=json', *arguments, both=False))

    def create(self, name, size, *options):
        self.img('create', '-q', '-f', 'raw', *options, f'archipelago:{name}', size)
        return f'archipelago:{name}'

    def io(self, image, *commands, options=('-f', 'raw'), fails=False):
        """qemu-io commands, each of which must succeed (or the whole fail)."""
        words = [part for command in commands for part in ('-c', command)]
        text = self.run('qemu-io', *options, *words, image, fails=fails)
        expect(fails or 'failed' not in text, f'{commands} on {image}: {text}')
        expect('Pattern verification' not in text, f'{commands} on {image}: {text}')
        return text

    def daemon(self, program, *arguments):
        daemon = Daemon(self, program, arguments)
        self.daemons.append(daemon)
        return daemon

    def storage_daemon(self, *arguments):
        return self.daemon('qemu-storage-daemon', *arguments)

    def qemu(self, *arguments, machine='none'):
        if not os.path.exists(f'{os.environ["ARCHIPELAGO_QEMU"]}/bin/qemu-system-x86_64'):
            raise Skip('this QEMU was built with --tools-only')
        return self.daemon('qemu-system-x86_64', '-nodefaults', '-no-user-config',
                           '-display', 'none', '-machine', machine, '-accel', 'qtest',
                           *arguments)

    def end(self):
        for daemon in self.daemons:
            daemon.kill()
            os.close(daemon.terminal)


class Daemon:
    """A running QEMU or storage daemon, spoken to by QMP."""

    count = 0

    def __init__(self, lab, program, arguments):
        Daemon.count += 1
        self.name = f'{program}-{Daemon.count}'
        self.errors_path = lab.path(f'{self.name}.err')
        path = lab.path(f'm{Daemon.count}')
        monitor = ['-qmp', f'unix:{path},server=on,wait=off']
        if program == 'qemu-storage-daemon':
            monitor = ['--chardev', f'socket,id=qmp,path={path},server=on,wait=off',
                       '--monitor', 'chardev=qmp']
        # On a terminal, and only there, a line is written when it is complete.
        self.terminal, output = pty.openpty()
        with open(self.errors_path, 'w', encoding='utf-8') as errors:
            self.process = subprocess.Popen(
                [program, *map(str, arguments), *monitor], env=lab.env, cwd=lab.dir,
                stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        os.close(output)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        self._connect(path)
        # One for both ways would drop what it has read ahead when something is written.
        self.file = self.socket.makefile('r', encoding='utf-8')
        self.events = []
        self.file.readline()
        self.qmp('qmp_capabilities')

    def _connect(self, path):
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.socket.connect(path)
                return
            except OSError:
                expect(self.process.poll() is None, f'{self.name} ended: {self.errors()}')
                expect(time.monotonic() < end, f'{self.name} gives no answer')
                time.sleep(0.02)

    def errors(self):
        with open(self.errors_path, encoding='utf-8') as file:
            return file.read()

    def _answer(self, wanted):
        while True:
            line = self.file.readline()
            expect(line, f'{self.name} hung up: {self.errors()}')
            message = json.loads(line)
            if 'event' in message:
                self.events.append(message)
            if wanted(message):
                return message

    def qmp(self, command, fails=False, **arguments):
        """The answer to a command; the words of its error with fails=True."""
        words = {key.replace('_', '-'): value for key, value in arguments.items()}
        words = json.dumps({'execute': command, 'arguments': words})
        self.socket.sendall(f'{words}\n'.encode())
        message = self._answer(lambda m: 'return' in m or 'error' in m)
        if fails:
            expect('error' in message, f'{command} should have failed: {message}')
            return message['error']['desc']
        expect('return' in message, f'{command}: {message}')
        return message['return']

    def hmp(self, line):
        return self.qmp('human-monitor-command', command_line=line)

    def io(self, node, command):
        """What a qemu-io command on a drive of a running QEMU says."""
        text = self.hmp(f'qemu-io {node} "{command}"')
        while select.select([self.terminal], [], [], 0)[0]:
            text += os.read(self.terminal, 4096).decode()
        return text

    def job(self, name):
        """Waits for a job to end; its error's words or None."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            for job in self.qmp('query-jobs'):
                if job['id'] == name and job['status'] == 'concluded':
                    self.qmp('job-dismiss', id=name)
                    return job.get('error')
            time.sleep(0.02)
        raise AssertionError(f'job {name} does not end')

    def quit(self):
        self.qmp('quit')
        same(self.process.wait(DEADLINE_S), 0, f'{self.name} ends with')

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.file.close()
        self.socket.close()


def run_one(story, function, directory):
    """None if the check holds, else a sentence that says what does not."""
    lab = None
    try:
        lab = Lab(directory)
        function(lab)
        return None
    except Skip:
        raise
    except Exception as error:  # any failure of a check is that check's failure
        where = traceback.extract_tb(error.__traceback__)
        lines = [str(f.lineno) for f in where if f.name == function.__name__]
        return f'{error} ({function.__name__}, line {", ".join(lines) or "?"})'
    finally:
        if lab:
            lab.end()


def main(title='behaviour'):
    """Runs the checks whose function's name is given, or all."""
    wanted = sys.argv[1:]
    unknown = set(wanted) - {function.__name__ for _, function in CHECKS}
    if unknown:
        print(f'no such check: {", ".join(sorted(unknown))}')
        return 2
    counts = {'ok': 0, 'FAIL': 0, 'skip': 0}
    for story, function in CHECKS:
        if wanted and function.__name__ not in wanted:
            continue
        began = time.monotonic()
        directory = tempfile.mkdtemp(prefix='aq.', dir=os.environ.get('TMPDIR', '/var/tmp'))
        try:
            words = run_one(story, function, directory)
            verdict = 'FAIL' if words else 'ok'
        except Skip as reason:
            verdict, words = 'skip', str(reason)
        counts[verdict] += 1
        print(f'{verdict:4} {story} ({time.monotonic() - began:.1f} s)'
              + (f': {words}' if words else ''), flush=True)
        shutil.rmtree(directory, ignore_errors=True)
    print(f'{title}: {counts["ok"]} passed, {counts["FAIL"]} failed, '
          f'{counts["skip"]} skipped')
    return 1 if counts['FAIL'] else 0
