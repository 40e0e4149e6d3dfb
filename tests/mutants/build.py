"""Makes the woven copy of the tree, builds its tests, and leaves out what does not compile."""

import json
import os
import shutil
import subprocess

import weave

# Dependencies at full speed; no debug information, which doubles what is linked.
PROFILE = ["--config", "profile.dev.debug=0", "--config", "profile.dev.opt-level=1",
           "--config", 'profile.dev.package."*".opt-level=3', "--config", "profile.dev.incremental=true"]
ROUNDS_MAX = 30


def copy_tree(root, to, woven=()):
    """What git knows of the tree as it is now, without what is woven; what is the same keeps its time."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                           check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
    kept = set()
    for name in filter(None, names):
        if name.startswith("qemu-patches/") or not (root / name).is_file():
            continue
        kept.add(name)
        if name in woven:
            continue
        put(to / name, (root / name).read_bytes())
        shutil.copymode(root / name, to / name)
    for path in list(to.rglob("*")):
        if path.is_file() and str(path.relative_to(to)) not in kept | {"src/mutant.rs"}:
            path.unlink()


def put(path, content):
    """Writes only what is new: cargo goes by times."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class Build:
    """A copy of the tree with all mutants in it."""

    def __init__(self, root, tree, target, jobs):
        self.root, self.tree, self.jobs = root, tree, jobs
        self.cargo = shutil.which("cargo") or os.path.expanduser("~/.cargo/bin/cargo")
        path = f"{os.path.dirname(self.cargo)}:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "CARGO_TARGET_DIR": str(target), "CARGO_TERM_COLOR": "never",
                    "RUSTFLAGS": "--cap-lints=allow"}
        self.functions = []
        self.lines = {}
        tree.mkdir(parents=True, exist_ok=True)
        self.sources, self.mutants = weave.listed(root, self.cargo)

    def weave(self, left_out):
        """Writes the tree with all mutants but those."""
        if not self.functions:
            copy_tree(self.root, self.tree, {*self.sources, "src/lib.rs"})
        self.functions, self.lines = [], {}
        for file, source in sorted(self.sources.items()):
            of_file = [mutant for mutant in self.mutants
                       if mutant.file == file and not mutant.alone and mutant.key not in left_out]
            text, self.lines[file], functions = weave.weave(source, of_file, len(self.functions))
            self.functions += functions
            put(self.tree / file, text.encode())
        switch = weave.SWITCH.replace("@FUNCTIONS@", str(max(1, len(self.functions))))
        put(self.tree / "src/mutant.rs", switch.encode())
        lib = (self.root / "src/lib.rs").read_text()
        lib = lib.replace("pub mod fault;", "pub mod fault;\npub mod mutant;", 1)
        put(self.tree / "src/lib.rs", lib.encode())

    def cargo_json(self, *words):
        """Runs cargo and returns whether it succeeded, and its messages."""
        command = ["nice", "-n", "19", self.cargo, *words, "--locked", "--message-format=json",
                   f"-j{self.jobs}", *PROFILE]
        done = subprocess.run(command, cwd=self.tree, env=self.env, check=False, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
        return done.returncode == 0, messages, done.stderr.decode(errors="replace")

    def blamed(self, messages):
        """The mutants that the compiler's errors are about: (keys refused, keys to build alone)."""
        refused, alone, unknown = set(), set(), []
        for message in messages:
            said = message.get("message") or {}
            if said.get("level") != "error" or not said.get("spans"):
                continue
            of_error = self.of_spans(said["spans"])
            if of_error is None:
                unknown.append(said.get("rendered", ""))
            elif len(of_error) == 1:
                refused.add(of_error[0].key)
            else:
                alone.update(mutant.key for mutant in of_error)
        return refused, alone, unknown

    def of_spans(self, spans):
        """The mutants in whose lines an error is: of its main places, else of the others."""
        ordered = sorted(spans, key=lambda span: not span["is_primary"])
        widest = None
        for span in ordered:
            for first, last, mutants in self.lines.get(span["file_name"], []):
                if first <= span["line_start"] and span["line_end"] <= last:
                    if len(mutants) == 1:
                        return mutants
                    widest = widest or mutants
        return widest

    def settle_on(self, state, say):
        """Leaves out what does not compile, in rounds: borrows are looked at once all types are right."""
        for round_number in range(1, ROUNDS_MAX):
            self.weave(state.refused | state.alone)
            good, messages, stderr = self.cargo_json("check", "--lib", "--features", "testkit")
            if good:
                return
            refused, alone, unknown = self.blamed(messages)
            alone -= refused
            say(f"round {round_number}: {len(refused)} do not compile, {len(alone)} have to be built alone")
            if not refused and not alone:
                text = "\n".join(unknown[:5]) + stderr[-3000:]
                raise RuntimeError(f"the woven tree does not compile:\n{text}")
            # Where single mutants are to blame, their neighbours may be fine without them.
            state.leave_out(refused, set() if refused else alone)
        raise RuntimeError("the woven tree does not settle")

    def tests(self):
        """Builds the tests; [(what is tested: lib, or the file of the test; the program)]."""
        good, messages, stderr = self.cargo_json("test", "--no-run")
        if not good:
            rendered = [(message.get("message") or {}).get("rendered") or "" for message in messages]
            raise RuntimeError("the woven tests do not build:\n" + "".join(rendered)[:4000] + stderr[-3000:])
        return self.programs_of(messages)

    def programs_of(self, messages):
        """What was built to be run."""
        found = []
        for message in messages:
            if message.get("reason") == "compiler-artifact" and message.get("executable") and \
                    message["profile"]["test"]:
                name, kind = message["target"]["name"], message["target"]["kind"][0]
                tested = {"test": name, "bin": "bin"}.get(kind, "lib")
                found.append((tested, message["executable"]))
        return found
