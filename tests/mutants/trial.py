"""Runs tests on mutants: which tests enter which functions, and which test notices a mutant."""

import glob
import json
import math
import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time

# What would cost more time than it notices.
NOT_ASKED = re.compile("|".join([
    # About the text of the sources, or about speed; about backends, which have no mutants.
    "^tidy::", "^dir_speed::", "^dir_sync::", "^dir_errors::", "^conformance::", "^lib::backend::",
    # Whether planted faults are found, and every place is come to: tests of tests.
    "^crash::planted_faults_are_found$", "^crash::every_ordering_rule_has_a_planted_fault$",
    "^simulate::planted_faults_are_found$", "^simulate::a_seed_is_the_same_again$",
    # Through C what is asked without it.
    "^model::c_in_", "^capi::cplusplus$",
]))
# Short forms: a survivor meets each test once.
SHORT = {"STATES": "1500", "ARCHIPELAGO_MODEL_CASES": "24", "ARCHIPELAGO_FUZZ_S": "2", "FLIPS": "600",
         "ARCHIPELAGO_SWEEP_SAMPLE": "1000", "SEEDS": "150",
         "ARCHIPELAGO_MOMENTS_EVERY": "11"}

MEMORY_BYTES_MAX = 6 << 30
# Tests of one process, the quickest and most telling first: a mutant dies at the first failure.
BATCHES_S = (0.25, 0.5, 1, 2, 4)
# What takes longer than that is not asked, unless --below says so.
PHASES_S = (0.3, 2.0, 10.0)
# However busy the machine is.
WALL_S, CPU_S, IDLE_S = 30, 2, 3
FACTOR = 4


class Test:
    """One test of one program."""

    def __init__(self, target, program, name):
        self.target, self.program, self.name = target, program, name
        self.seconds = 0.0
        self.entered = frozenset()

    @property
    def label(self):
        return f"{self.target}::{self.name}"


    def of_program(self, program):
        """The same test in another build."""
        other = Test(self.target, program, self.name)
        other.seconds, other.entered = self.seconds, self.entered
        return other


class Outcome:
    """What a program of tests did: the test that failed, and whether it was cut off, perhaps too early."""

    def __init__(self, failed, by, slow, busy):
        self.failed, self.by, self.slow, self.busy = failed, by, slow, busy


class Watch:
    """Tells a program that hangs from one that has to wait for a busy machine."""

    def __init__(self, pid, allowed_s):
        self.pid = pid
        self.until = time.monotonic() + WALL_S + allowed_s * FACTOR * 4
        self.window_s = IDLE_S + 1.5 * allowed_s
        self.since, self.wanted_s, self.idle = time.monotonic(), 0.0, False

    def wanted(self, pid):
        """Time that its threads, and programs that it runs, ran or waited for a core."""
        total_ns, children = 0, []
        for path in glob.glob(f"/proc/{pid}/task/*"):
            try:
                with open(f"{path}/schedstat", encoding="ascii") as stat:
                    ran_ns, waited_ns, _ = stat.read().split()
                with open(f"{path}/children", encoding="ascii") as names:
                    children += names.read().split()
                total_ns += int(ran_ns) + int(waited_ns)
            except (OSError, ValueError):
                pass
        return total_ns / 1e9 + sum(self.wanted(child) for child in children)

    def is_over(self):
        now = time.monotonic()
        if now - self.since > self.window_s:
            wanted_s = self.wanted(self.pid)
            self.idle = abs(wanted_s - self.wanted_s) < 0.03 * (now - self.since)
            self.since, self.wanted_s = now, wanted_s
        return self.idle or now > self.until


def run_program(program, names, more_env, tree, folder, allowed_s):
    """Runs these tests of a program one after the other until one fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    env = {**os.environ, **SHORT, "TMPDIR": str(folder), "CARGO_MANIFEST_DIR": str(tree), **more_env}
    cpu_s = math.ceil(allowed_s * FACTOR) + CPU_S
    command = ["setpriv", "--pdeathsig", "KILL", "prlimit", f"--cpu={cpu_s}:{cpu_s + 1}", "--core=0",
               f"--as={MEMORY_BYTES_MAX}", f"--fsize={2 << 30}", "nice", "-n", "19",
               program, "--exact", "--test-threads=1", *names]
    process = subprocess.Popen(command, cwd=tree, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    last, failed, slow, rest = "", False, False, b""
    watch = Watch(process.pid, allowed_s)
    os.set_blocking(process.stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not failed:
            if not selector.select(0.5):
                failed = slow = watch.is_over()
                continue
            piece = process.stdout.read()
            if not piece:
                break
            rest += piece
            *lines, rest = rest.split(b"\n")
            for line in [*lines, rest]:
                text = line.decode(errors="replace")
                if found := re.match(r"test (\S+) (- should panic )?\.\.\.", text):
                    last = found.group(1)
                failed = text.endswith(" FAILED") or text == "FAILED"
                if failed:
                    # What has begun behind it is not the one that failed.
                    break
    code = ended(process, failed)
    shutil.rmtree(folder, ignore_errors=True)
    busy = slow and not watch.idle
    slow = slow or not failed and code in (-signal.SIGXCPU, -signal.SIGKILL)
    return Outcome(failed or code != 0, last, slow, busy)


def ended(process, failed):
    """The code of a program whose output has ended, or has said enough."""
    code = None
    if not failed:
        try:
            code = process.wait(WALL_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.stdout.close()
    return process.wait() if code is None else code


class Suite:
    """All tests, with what they enter."""

    def __init__(self, build, programs, out, scratch, say):
        self.tree, self.out, self.scratch, self.say = build.tree, out, scratch, say
        self.functions = build.functions
        self.programs = programs
        self.tests = []
        self.by_function = {}
        self.kills = {}
        self.lock = threading.Lock()
        self.began = time.monotonic()

    def listed(self):
        """Every test of every program."""
        for target, program in self.programs:
            out = subprocess.run([program, "--list", "--format", "terse"], cwd=self.tree, check=True,
                                 stdout=subprocess.PIPE).stdout.decode()
            for line in out.splitlines():
                if line.endswith(": test"):
                    test = Test(target, program, line[:-len(": test")])
                    if not NOT_ASKED.search(test.label):
                        yield test

    def measure(self, test, job):
        """Runs a test on no mutant; False if it fails."""
        path = self.scratch / f"entered-{job}"
        path.write_bytes(bytes(max(1, len(self.functions))))
        began = time.monotonic()
        done = run_program(test.program, [test.name], {"MUTANT_ENTERED": str(path)}, self.tree,
                           self.scratch / f"measure-{job}", 60)
        test.seconds = time.monotonic() - began
        entered = path.read_bytes()
        test.entered = frozenset(i for i, byte in enumerate(entered) if byte)
        return not done.failed

    def remember(self, tests, failing):
        self.known = tests
        tests = [test for test in tests if test.label not in failing]
        self.tests = [test for test in tests if test.entered]
        self.by_function = {}
        for test in self.tests:
            for function in test.entered:
                self.by_function.setdefault(function, []).append(test)

    def save(self, path, failing):
        rows = [[test.target, test.program, os.stat(test.program).st_mtime, test.name, test.seconds,
                 sorted(test.entered), test.label not in failing] for test in self.known]
        path.write_text(json.dumps(rows))

    def load(self, path):
        """{(program, name): (test, whether it passed)} of the programs that are still the same."""
        found = {}
        for target, program, built, name, seconds, entered, good in json.loads(path.read_text()):
            if os.path.exists(program) and os.stat(program).st_mtime == built:
                test = Test(target, program, name)
                test.seconds, test.entered = seconds, frozenset(entered)
                found[program, name] = test, good
        return found

    def order(self, mutant, tests):
        """First what has noticed mutants of this function, or this file; the quick before the slow."""
        def worth(test):
            same = self.kills.get((mutant.entry, test.label), 0)
            near = self.kills.get((mutant.file, test.label), 0)
            return (test.seconds + 0.01) / (1 + 10 * same + 2 * near)
        return sorted(tests, key=worth)

    def batches(self, tests):
        """Lists of tests of one program: at first many short ones, then each slow one alone."""
        sizes, at = list(BATCHES_S), 0
        while at < len(tests):
            allowed = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            taken, of_program = 0.0, {}
            while at < len(tests) and (not of_program or taken + tests[at].seconds <= allowed):
                of_program.setdefault(tests[at].program, []).append(tests[at])
                taken += tests[at].seconds
                at += 1
            yield from of_program.values()

    def judge(self, mutant, job, seen_s, below_s):
        """(verdict, test): killed, timeout, or survives the tests that take from `seen_s` to `below_s`."""
        tests = self.by_function.get(mutant.entry, [])
        return self.judge_by(mutant, tests, seen_s, below_s, job, str(mutant.number))

    def judge_by(self, mutant, tests, seen_s, below_s, job=0, number="0"):
        some = [test for test in tests if seen_s <= test.seconds < below_s]
        for batch in self.batches(self.order(mutant, some)):
            found = self.try_batch(mutant, batch, job, {"MUTANT": number})
            if found:
                return found
        return "survives", ""

    def try_batch(self, mutant, batch, job, env):
        # As they run.
        names = sorted(test.name for test in batch)
        seconds = sum(test.seconds for test in batch)
        folder, program = self.scratch / f"job-{job}", batch[0].program
        while True:
            done = run_program(program, names, env, self.tree, folder, seconds)
            if not done.failed:
                return None
            if done.slow and not done.busy:
                break
            # Once more, and with more patience: a busy machine makes tests fail, too.
            again = [name for name in names if name == done.by] or names
            more_s = seconds * 2 + WALL_S / 4 if done.busy else seconds
            once_more = run_program(program, again, env, self.tree, folder, more_s)
            if once_more.failed:
                done = once_more
                break
            names = names[names.index(done.by) + 1:] if done.by in names else []
            if not names:
                return None
        label = f"{batch[0].target}::{done.by}"
        with self.lock:
            for place in (mutant.entry, mutant.file):
                self.kills[place, label] = self.kills.get((place, label), 0) + 1
        return "timeout" if done.slow else "killed", label
