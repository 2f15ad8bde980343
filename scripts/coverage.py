"""Two parts of `scripts/coverage`:

objects BINARIES PROGRAM...    llvm-cov's options for nextest's list of test binaries
table REPORT yes|no FOLDER...  the table of an lcov report, and what is missing in it
"""

import json
import pathlib
import re
import sys

TEST_FILE = re.compile(r"/(tests|machine_tests)(/|\.rs$)")


def first_test_line(path):
    """Where the tests of a file begin: they are its end, as everywhere in the house."""
    text = pathlib.Path(path).read_text()
    tests = re.search(r"^#\[cfg\(test\)\]\nmod \w+ \{", text, re.MULTILINE)
    return text.count("\n", 0, tests.start()) + 1 if tests else sys.maxsize


def read(report, folders):
    """For each file: by line how often it ran, and for each branch whether it was taken."""
    files, root = {}, pathlib.Path.cwd()
    for record in pathlib.Path(report).read_text().split("end_of_record"):
        path = re.search(r"^SF:(.*)$", record, re.MULTILINE)
        path = path and path[1].removeprefix(f"{root}/")
        if not path or TEST_FILE.search(path) or not path.startswith(tuple(folders)):
            continue
        end = first_test_line(path)
        lines = {int(n): int(ran) for n, ran in re.findall(r"^DA:(\d+),(\d+)", record, re.MULTILINE)}
        branches = re.findall(r"^BRDA:(\d+),\d+,\d+,(\S+)$", record, re.MULTILINE)
        files[path] = (
            {n: ran for n, ran in lines.items() if n < end},
            [(int(n), taken not in ("0", "-")) for n, taken in branches if int(n) < end],
        )
    return files


def share(hit, all_):
    return f"{hit:>5}/{all_:<5} {100 * hit / all_:6.2f} %" if all_ else f"{'none':>20}"


def row(name, files):
    lines = [ran > 0 for lines, _ in files for ran in lines.values()]
    branches = [taken for _, branches in files for _, taken in branches]
    print(f"{name:<40} {share(sum(lines), len(lines))}   {share(sum(branches), len(branches))}")


def ranges(numbers):
    """12, 13, 14, 20 as `12-14 20`."""
    found = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)


def objects(binaries, *programs):
    suites = json.loads(pathlib.Path(binaries).read_text())["rust-binaries"].values()
    for path in [*programs, *(suite["binary-path"] for suite in suites)]:
        print(f"--object={path}")


def table(report, missing, *folders):
    files = read(report, folders)
    print(f"{'':<40} {'lines':^20}   {'branches':^20}")
    for folder in folders:
        within = {path: found for path, found in files.items() if path.startswith(f"{folder}/")}
        row(folder, within.values())
        for path, found in sorted(within.items()):
            row(f"  {path.removeprefix(folder + '/')}", [found])
    row("total", files.values())
    if missing == "yes":
        print()
        for path, (lines, branches) in sorted(files.items()):
            never = ranges(sorted(n for n, ran in lines.items() if ran == 0))
            one_way = sorted({n for n, taken in branches if not taken and lines.get(n)})
            if never or one_way:
                print(f"{path}\n  lines: {never or '-'}\n  one way only: {ranges(one_way) or '-'}")


{"objects": objects, "table": table}[sys.argv[1]](*sys.argv[2:])
