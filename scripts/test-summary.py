#!/usr/bin/env python3
"""Says what a run of `cargo test` came to, for people: scripts/test-summary.py LOG [LEFT_OUT].

LOG is what cargo and the tests printed, both outputs in one file. A table of the end-to-end tests (the binaries of
`tests/tests`), slowest first, each with the question that its file begins with; a line for all other tests; the tests that
failed; and what was left out: LEFT_OUT has a line for each, `BINARY<tab>WHY`, which tests write where the environment
variable SLUICE_LEFT_OUT names it. The exit code is 0: whether tests failed is what cargo says.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Kinds of end-to-end tests by how their names begin.
KINDS = {
    "live": "daemon",
    "replay": "replay",
    "package": "package",
    "engine": "engine",
    "fuzz": "inputs",
}
# Columns that the questions may take.
WIDTH = 76

ANSI = re.compile(r"\x1b\[[0-9;]*m")
RUNNING = re.compile(r"^\s*Running (?:(unittests|tests|benches|examples)\s+)?(\S+) \((?:.*/)?([^/]+?)-[0-9a-f]{16}(?:\.exe)?\)$")
FAILED = re.compile(r"^test (.+?)(?: - should panic)? \.\.\. FAILED")
IGNORED = re.compile(r"^test (.+?) \.\.\. ignored(?:, (.*))?$")
RESULT = re.compile(
    r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored; \d+ measured; (\d+) filtered out; finished in ([\d.]+)s"
)


class Binary:
    """What a test binary said."""

    def __init__(self, name, end_to_end):
        self.name = name
        self.end_to_end = end_to_end
        self.passed = self.failed = self.ignored = self.filtered = 0
        self.seconds = 0.0
        self.ended = False
        self.failures = []
        self.left_out = []


def question(path):
    """The first sentence of a test file."""
    words = []
    for line in path.read_text().splitlines():
        if not line.startswith("//!") or line == "//!":
            break
        words.append(line[3:].strip())
    text = re.split(r"(?<=[?.]) ", " ".join(words))[0]
    return text if len(text) <= WIDTH else text[: WIDTH - 3].rsplit(" ", 1)[0] + " .."


def binaries(lines):
    found = []
    for line in lines:
        line = ANSI.sub("", line.rstrip("\n"))
        if match := RUNNING.match(line):
            _, source, name = match.groups()
            # `tests/NAME.rs` is there in other crates as well.
            end_to_end = source.startswith("tests/") and (ROOT / "tests" / source).is_file()
            found.append(Binary(name, end_to_end))
        elif line.lstrip().startswith("Doc-tests "):
            found.append(Binary(line.split()[-1], False))
        elif not found:
            continue
        elif match := FAILED.match(line):
            found[-1].failures.append(match[1])
        elif match := IGNORED.match(line):
            found[-1].left_out.append(match[1] + (f": {match[2]}" if match[2] else ": ignored"))
        elif match := RESULT.match(line):
            binary = found[-1]
            binary.passed, binary.failed, binary.ignored, binary.filtered = map(int, match.groups()[:4])
            binary.seconds = float(match[5])
            binary.ended = True
    for binary in found:
        if not binary.ended:
            # Killed, aborted, or still running when the log ended.
            binary.failed += 1
            binary.failures.append("(broken off: no result)")
    return found


def table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) if column in (0, 2, 3, 4) else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))]
        yield "  ".join(cells).rstrip()


def summary(log, left_out):
    found = binaries(log)
    told = {}
    for line in left_out:
        name, _, why = line.rstrip("\n").partition("\t")
        told.setdefault(re.sub(r"-[0-9a-f]{16}$", "", name), []).append(why)
    for binary in found:
        binary.left_out += sorted(set(told.pop(binary.name, [])))

    own = sorted((binary for binary in found if binary.end_to_end), key=lambda binary: (-binary.seconds, binary.name))
    rows = [["seconds", "test", "passed", "failed", "left out", "of", "what it asks"]]
    for binary in own:
        kind = KINDS.get(binary.name.split("_")[0], "tools")
        text = question(ROOT / "tests" / "tests" / f"{binary.name}.rs")
        counts = [binary.passed, binary.failed, len(binary.left_out)]
        rows.append([f"{binary.seconds:.1f}", binary.name, *map(str, counts), kind, text])
    yield "End-to-end tests, slowest first:"
    yield ""
    yield from table(rows)
    others = [binary for binary in found if not binary.end_to_end]
    yield ""
    for what, some in (("End to end", own), ("All other tests", others)):
        passed, failed = sum(binary.passed for binary in some), sum(binary.failed for binary in some)
        seconds = sum(binary.seconds for binary in some)
        yield f"{what}: {passed} passed, {failed} failed, {len(some)} binaries, {seconds:.0f} s."
    failures = [f"  {binary.name}: {name}" for binary in found for name in binary.failures]
    if failures:
        yield ""
        yield "Failed:"
        yield from failures
    missing = [f"  {binary.name}: {why}" for binary in found for why in binary.left_out]
    missing += [f"  {name}: {why}" for name, whys in told.items() for why in sorted(set(whys))]
    filtered = sum(binary.filtered for binary in found)
    if filtered:
        missing.append(f"  {filtered} tests that were not asked for")
    yield ""
    yield "Left out:" if missing else "Nothing was left out."
    yield from missing


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    log = pathlib.Path(sys.argv[1]).read_text(errors="replace").splitlines()
    path = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else None
    left_out = path.read_text(errors="replace").splitlines() if path and path.exists() else []
    for line in summary(log, left_out):
        print(line)


if __name__ == "__main__":
    main()
