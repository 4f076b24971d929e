"""The committed list of files: what each combination of answers gives, with modes. `make files` writes it anew.

100644 path                                      in every project
100644 path  pool=prefork protocol=line,stream   only with one of these answers to each of these options
"""

import itertools
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from baking import CHOOSING, OPTIONS, REPOSITORY, bake, combinations, copy_template, modes

LIST = REPOSITORY / "tests/template/files.txt"
Given = dict[str, str]


def written(seen: Iterable[tuple[Given, dict[str, str]]]) -> str:
    """The list, of combinations and the files that each has given."""
    having: dict[tuple[str, str], list[Given]] = {}
    for answers, files in seen:
        for file in files.items():
            having.setdefault(file, []).append(answers)
    return "".join(f"100{mode} {path}{condition(path, having[path, mode])}\n" for path, mode in sorted(having))


def condition(path: str, having: list[Given]) -> str:
    """What the combinations have in common that have a file."""
    wanted = {
        option: [one for one in OPTIONS[option] if any(one == row[option] for row in having)] for option in CHOOSING
    }
    if len(having) != len(list(itertools.product(*wanted.values()))):
        raise ValueError(f"{path}: whether it is there depends on more than one answer to each option")
    words = [f"{option}={','.join(some)}" for option, some in wanted.items() if len(some) < len(OPTIONS[option])]
    return "  " + " ".join(words) if words else ""


def expected(answers: Given) -> dict[str, str]:
    """The files and modes that the list has for these answers."""
    found = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        file, _, words = line.partition("  ")
        mode, _, path = file.partition(" ")
        wanted = dict(word.split("=") for word in words.split())
        if all(answers[option] in some.split(",") for option, some in wanted.items()):
            assert path not in found, f"{path} is in the list twice"
            found[path] = mode.removeprefix("100")
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        template = copy_template(Path(directory) / "template")

        def seen(numbered: tuple[int, Given]) -> tuple[Given, dict[str, str]]:
            number, answers = numbered
            return answers, modes(bake(template, Path(directory) / str(number), **answers))

        with ThreadPoolExecutor(2) as pool:
            LIST.write_text(written(pool.map(seen, enumerate(combinations()))), encoding="utf-8")


if __name__ == "__main__":
    main()
