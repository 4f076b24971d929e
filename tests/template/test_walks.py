"""docs/walks.md, compared with the code: names exist, calls are made, and none goes up but through an interface."""

import ast
import re
import tomllib
from functools import cache
from itertools import pairwise

from baking import REPOSITORY, RUNTIME

STEP = re.compile(
    r"^\d+\. `([\w.]+)`(?:,\s(?:called|registered)\sby\s`([\w.]+)`)?(?:\sthrough\s`([\w.]+)`)?[:.]", re.MULTILINE
)
TEXT = (REPOSITORY / "docs/walks.md").read_text()


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse((REPOSITORY / RUNTIME / f"{module.replace('.', '/')}.py").read_text())


def split(name: str) -> tuple[str, list[str]]:
    """A module of the runtime, and the path to a name in it."""
    parts = name.split(".")
    for length in (2, 1):
        module = ".".join(parts[:length])
        if (REPOSITORY / RUNTIME / f"{module.replace('.', '/')}.py").is_file():
            return module, parts[length:]
    raise AssertionError(f"{name}: there is no such module")


def named(node: ast.AST, name: str) -> ast.AST | None:
    """What defines a name in a module, a class (its attributes included) or a function."""
    body = list(ast.walk(node)) if isinstance(node, ast.ClassDef | ast.FunctionDef) else node.body  # type: ignore[attr-defined]
    for one in body:
        if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == name and one is not node:
            return one
        if isinstance(one, ast.AnnAssign | ast.Assign):
            targets = [one.target] if isinstance(one, ast.AnnAssign) else one.targets
            if any(name in (getattr(target, "id", ""), getattr(target, "attr", "")) for target in targets):
                return one
    return None


def found(name: str) -> ast.AST:
    module, path = split(name)
    node: ast.AST = parsed(module)
    for part in path:
        inner = named(node, part)
        assert inner is not None, f"docs/walks.md: {name}: {module} has no such name"
        node = inner
    return node


def layer(name: str) -> int:
    """The higher, the greater."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one["type"] == "layers")
    folder = name.partition(".")[0]
    (height,) = (at for at, names in enumerate(reversed(layers)) if folder in re.split(r"\W+", names))
    return height


def mentions(node: ast.AST, name: str) -> bool:
    return any(name in (getattr(one, "attr", ""), getattr(one, "id", "")) for one in ast.walk(node))


def test_every_name_exists() -> None:
    folders = {path.name for path in (REPOSITORY / RUNTIME).iterdir() if path.is_dir()} | {"main"}
    names = [name for name in re.findall(r"`(\w+(?:\.\w+)+)`", TEXT) if name.split(".")[0] in folders]
    assert len(names) > 100
    for name in names:
        found(name)


def test_every_step_is_a_call() -> None:
    """In the code of the caller stands the name of the function, of its class, or of the interface."""
    walks = TEXT.split("\n## ")[1:]
    assert len(walks) == 2
    for walk in walks:
        steps = STEP.findall(walk)
        assert len(steps) == len(re.findall(r"^\d+\. ", walk, re.MULTILINE)), "a step is not read"
        for (previous, _, _), (name, caller, interface) in pairwise(steps):
            caller = caller or previous
            called = (interface or name.removesuffix(".__init__")).rpartition(".")[2]
            assert mentions(found(caller), called), f"{caller} does not call {interface or name}"


def test_no_step_goes_up_but_through_an_interface() -> None:
    for walk in TEXT.split("\n## ")[1:]:
        steps = STEP.findall(walk)
        ups = 0
        for (previous, _, _), (name, caller, interface) in pairwise(steps):
            caller = caller or previous
            if interface:
                assert layer(interface) <= layer(caller), f"{interface} is above {caller}"
            else:
                assert layer(name) <= layer(caller), f"{caller} calls up to {name}"
            ups += layer(name) > layer(caller)
        assert ups, "a walk shows how calls go up"
