"""Tries the mutants that cannot be chosen at run time: a build for each of them.

Constants and `const fn` have their value when the program is built, and some
functions cannot be woven. The tests that are asked are those that enter the file of
the mutant, or all of them.
"""

import copy
import time

import build as builder


def try_all(built, suite, todo, state, options, say):
    """One after the other: each waits for its compiler."""
    apart = copy.copy(built)
    apart.tree = suite.out / "alone"
    apart.env = {**built.env, "CARGO_TARGET_DIR": str(suite.out / "alone-target")}
    apart.tree.mkdir(parents=True, exist_ok=True)
    suite.tree = apart.tree
    builder.copy_tree(apart.root, apart.tree)
    for mutant in todo:
        if options.time and time.monotonic() - suite.began > options.time:
            return
        began = time.monotonic()
        source = apart.sources[mutant.file]
        builder.put(apart.tree / mutant.file, mutant.apply(source.text, 0).encode())
        try:
            verdict, by = judge(apart, suite, mutant, options.below)
        finally:
            builder.put(apart.tree / mutant.file, source.text.encode())
        took_s = round(time.monotonic() - began, 1)
        state.add(mutant.key, verdict, by=by, s=took_s, below=options.below, file=mutant.file,
                  name=mutant.label())
        say(f"{verdict} ({took_s} s): {mutant.label()}")


def judge(apart, suite, mutant, below_s):
    """The unit tests before the others, which take longer to build."""
    here = {i for i, functions in enumerate(suite.functions) if functions[0].file == mutant.file}
    tests = [test for test in suite.tests if test.entered & here] or suite.tests
    for words, is_lib in ((["--lib"], True), ([], False)):
        good, messages, _ = apart.cargo_json("test", "--no-run", *words)
        if not good:
            return "unviable", ""
        programs = dict(apart.programs_of(messages))
        some = [test.of_program(programs[test.target]) for test in tests
                if (test.target == "lib") == is_lib and test.target in programs]
        verdict, by = suite.judge_by(mutant, some, 0, below_s)
        if verdict != "survives":
            return verdict, by
    return "survives", ""
