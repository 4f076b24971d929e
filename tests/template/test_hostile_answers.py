"""Hostile answers are refused in one line, or shown unchanged; typed, replayed or from a file, none becomes code."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from baking import OPTIONS, bake, cookiecutter_at, files, generate

VISIBLE = [option for option in OPTIONS if not option.startswith("_")]
# Text that means something to TOML, YAML, Python, roff, a shell, a Dockerfile, a unit or a format string.
TEXTS = {
    "quotes": 'it\'s "quoted" \'\'\' and """ `so`',
    "backslashes": "\\ at first, \\n and \\\\ within, and at last \\",
    "two at last": "C:\\\\",
    "newlines": "one line\ntwo lines\n\nfour, not [section]\nkey: value",
    "emoji": "ünï 🎉 👩‍👩‍👧",
    "percent": "100% %s %(a)s %n %%",
    "dollar": "$HOME ${HOME} $(id) $$ `id`",
    "right to left": "שלום, عالم! and back\u200f",
    "yaml": "- {a: [b], c: #d} & *e !f | > @",
    "roff": ".so /etc/passwd 'br -x ^ ~",
    "long": "ten chars " * 999 + "ten chars!",
}


@pytest.fixture(scope="session", params=TEXTS)
def text(request: pytest.FixtureRequest) -> str:
    return TEXTS[request.param]


@pytest.fixture(scope="session")
def awkward(text: str, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose description and author are this text; an author has one line."""
    author = text.replace("\n", " ")
    return bake(template, tmp_path_factory.mktemp("awkward"), description=text, author=author)


def test_text_is_shown_unchanged(awkward: Path, text: str) -> None:
    """By each format's own rules. What has one line shows a new line as a space."""
    line = text.replace("\n", " ")
    project = tomllib.loads((awkward / "pyproject.toml").read_text())["project"]
    assert (project["description"], project["authors"]) == (text, [{"name": line}])
    answers = yaml.safe_load((awkward / ".cookiecutter.yaml").read_text())["default_context"]
    assert (answers["description"], answers["author"]) == (text, line)
    assert f"\n\n{text}\n\n" in (awkward / "README.md").read_text()
    assert line in (awkward / "LICENSE").read_text()
    labels = dockerfile_labels((awkward / "Dockerfile").read_text())
    assert labels["org.opencontainers.image.description"] == line
    assert labels["org.opencontainers.image.authors"] == line
    for kind, end in (("service", ""), ("socket", " (socket)")):
        unit = (awkward / f"deploy/systemd/hello-server.{kind}").read_text()
        assert unit_values(unit)["Description"] == line + end
    page = subprocess.run(
        [sys.executable, "deploy/reference.py", "man", "/etc"],
        cwd=awkward,
        env={"PYTHONPATH": "src"},
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    ).stdout
    roff = {"\\&": "", "\\e": "\\", "\\-": "-", "\\(aq": "'", "\\(ga": "`", "\\(ha": "^", "\\(ti": "~"}
    shown = re.search(r"^\.SH NAME\n(?:\\&)?hello\\-server \\- (.*)$", page, re.MULTILINE)
    assert shown
    assert re.sub(r"\\(?:\(..|.)", lambda found: roff[found[0]], shown[1]) == line


def test_every_file_parses(awkward: Path) -> None:
    for name, content in files(awkward).items():
        match Path(name).suffix:
            case ".py":
                ast.parse(content)
            case ".toml":
                tomllib.loads(content.decode())
            case ".yaml" | ".yml":
                list(yaml.safe_load_all(content))
    for script in ("deploy/install", "deploy/rc.d/hello_server"):
        subprocess.run(["sh", "-n", awkward / script], check=True)


def dockerfile_labels(text: str) -> dict[str, str]:
    """As Docker reads them: in double quotes a backslash counts before a quote, a dollar sign and itself alone, and a
    plain dollar sign would expand."""
    lines = re.sub(r"\\\n", "", text[text.index("\nLABEL ") :])
    assert lines.count("\n") == 2, "the labels are one instruction, and the last one"
    found = re.findall(r'([\w.]+)="((?:[^"\\]|\\.)*)"', lines)
    own = [value for name, value in found if name.endswith((".description", ".authors"))]
    assert not any(re.search(r"(?<!\\)(?:\\\\)*\$", value) for value in own)
    return {name: re.sub(r'\\(["$\\])', r"\1", value) for name, value in found}


def unit_values(text: str) -> dict[str, str]:
    """As systemd.syntax(7) says: a final backslash joins lines, space around a value is dropped, %% is a per cent."""
    found: dict[str, str] = {}
    joined = re.sub(r"(?<!\\)((?:\\\\)*)\\\n", r"\1 ", text)
    for line in joined.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            assert not re.search(r"(?<!%)(?:%%)*%(?![%NS])", value), "a specifier that was not meant"
            found[name] = value.strip().replace("%%", "%")
    return found


def test_a_project_of_awkward_text_is_in_order(template: Path, tmp_path: Path) -> None:
    """All of it at once, by the tools that a service developer runs."""
    everything = "".join(text.replace("\n", " ") for text in TEXTS.values())
    answers = {"project_slug": "z", "package_name": "a1", "port": "1", "registry": "registry.example:5000/team"}
    project = bake(template, tmp_path, description=everything, author=everything, **answers)
    for command in (["ruff", "check", "--no-cache"], ["ruff", "format", "--check", "--no-cache"], ["a1", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=project, env={"PYTHONPATH": "src"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "image: registry.example:5000/team/z\n" in (project / "compose.yaml").read_text()


@pytest.mark.parametrize("protocol", OPTIONS["protocol"])
def test_longest_names_fit(protocol: str, template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path, project_slug="slug" * 10, package_name="name" * 10, protocol=protocol)
    for command in (["ruff", "check", "--no-cache"], ["ruff", "format", "--check", "--no-cache"]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# -- code in answers -------------------------------------------------------------------------------


def payloads(touched: Path) -> list[str]:
    """Each makes a file if anything takes it for code: Jinja, Python, a shell, make, a Dockerfile's shell form."""
    touch = f"touch {shlex.quote(str(touched))}"
    return [
        "{{ cycler.__init__.__globals__.os.system('" + touch + "') }}",
        "{% for one in [cycler.__init__.__globals__.os.system('" + touch + "')] %}{% endfor %}",
        f'"; __import__("os").system("{touch}"); "',
        f"'; __import__('os').system('{touch}'); '",
        f'""" + str(__import__("os").system("{touch}")) + """',
        f"$({touch})",
        f"`{touch}`",
        f"$(shell {touch})",
        f"'; {touch}; '",
        f"a | {touch} & {touch}",
    ]


def tried(option: str, payloads: list[str]) -> list[tuple[int, str]]:
    """With their numbers: all in the nightly run, and always of the description, which takes any text. In other runs
    Jinja's first and two more, which differ from option to option."""
    if option == "description" or "NIGHTLY" in os.environ:
        return list(enumerate(payloads))
    first = sum(option.encode())
    chosen = {0, *(1 + (first + 4 * more) % (len(payloads) - 1) for more in range(2))}
    return [(number, payload) for number, payload in enumerate(payloads) if number in chosen]


def live(project: Path) -> None:
    """Do with a project what would run a payload: import, make, scripts, the manual page."""
    package = next(path for path in (project / "src").iterdir()).name
    commands = [
        [sys.executable, "-m", package, "--check"],
        [sys.executable, "deploy/reference.py", "man", "/etc"],
        [sys.executable, "deploy/reference.py", "config", "/etc"],
        ["make", "-s", "help"],
        ["make", "-n", "image"],
        ["make", "-s", "install", f"DESTDIR={project}/stage", f"PYTHON={sys.executable}"],
    ]
    for command in commands:
        subprocess.run(command, cwd=project, env={"PYTHONPATH": "src", "PATH": "/usr/bin:/bin"}, capture_output=True)


def typed(home: Path, template: Path, answers: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Answer the questions as a person would: one line each, an empty one for the default."""
    lines = "".join(f"{answers.get(option, '')}\n" for option in VISIBLE)
    return cookiecutter_at(home, template, home / "out", said=lines)


@pytest.mark.parametrize("option", VISIBLE)
def test_a_typed_answer_never_becomes_code(option: str, template: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for number, payload in tried(option, payloads(touched)):
        home = tmp_path / str(number)
        home.mkdir()
        done = typed(home, template, {option: payload})
        made = list((home / "out").glob("*"))
        if done.returncode == 0:
            live(made[0])
        else:
            assert made == []
            assert "Traceback" not in done.stderr
        assert not touched.exists(), payload


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in ("__prompts__", "_extensions")])
def test_a_replayed_answer_never_becomes_code(
    option: str, replayed: dict[str, Any], template: Path, tmp_path: Path
) -> None:
    """Also what follows from answers: a replay file has it, and it may have been changed."""
    touched = tmp_path / "touched"
    for number, payload in tried(option, payloads(touched)):
        home = tmp_path / str(number)
        home.mkdir()
        answers = {
            **replayed["cookiecutter"],
            option: [payload] if isinstance(OPTIONS[option], list) and option[0] == "_" else payload,
        }
        (home / "replay.json").write_text(json.dumps({"cookiecutter": answers}))
        done = cookiecutter_at(home, template, home / "out", "--replay-file", str(home / "replay.json"))
        # Of a name with slashes in it, cookiecutter leaves the empty directories above the project's.
        made = [path for path in (home / "out").rglob("*") if path.is_file()]
        if done.returncode == 0:
            assert option in ("project_name", "description", "author")
            live(next((home / "out").iterdir()))
        else:
            assert made == []
            assert done.stderr.startswith(option), done.stderr
        assert not touched.exists(), payload


@pytest.fixture(scope="session")
def replayed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What cookiecutter keeps of a run."""
    home = tmp_path_factory.mktemp("home")
    assert cookiecutter_at(home, template, home / "out", "--no-input").returncode == 0
    kept: dict[str, Any] = json.loads(next(home.glob(".cookiecutter_replay/*.json")).read_text())
    return kept


def test_a_payload_would_be_noticed(tmp_path: Path) -> None:
    """Each of them does run where it is taken for code."""
    touched = tmp_path / "touched"
    jinja, _, _, python, _, shell, *_ = payloads(touched)
    from jinja2 import Environment

    for run in (
        lambda: Environment().from_string(jinja).render(),
        lambda: exec(f"x = '{python}'"),
        lambda: subprocess.run(["sh", "-c", f'echo "{shell}"'], check=True),
    ):
        run()
        assert touched.exists()
        touched.unlink()


# -- the answers' file -----------------------------------------------------------------------------


@pytest.mark.anywhere
def test_plain_cookiecutter_takes_the_answers(template: Path, tmp_path: Path) -> None:
    """--config-file .cookiecutter.yaml makes the same project again, whatever the answers were."""
    answers = {
        "license": "Apache-2.0",
        "protocol": "line",
        "pool": "threaded",
        "ci": "gitlab",
        "port": "7",
        "python_version": "3.12",
    }
    project = bake(template, tmp_path / "first", description=" ".join(TEXTS.values()), author='Ünï \\ "X"', **answers)
    done = cookiecutter_at(
        tmp_path, template, tmp_path / "again", "--no-input", "--config-file", str(project / ".cookiecutter.yaml")
    )
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "again/hello-server") == files(project)


@pytest.mark.anywhere
def test_every_answer_is_kept(template: Path, tmp_path: Path) -> None:
    kept = yaml.safe_load((bake(template, tmp_path) / ".cookiecutter.yaml").read_text())
    assert list(kept) == ["default_context", "template", "directory", "commit", "made_with"]
    assert list(kept["default_context"]) == VISIBLE


@pytest.mark.anywhere
def test_a_failing_hook_leaves_nothing(template: Path, tmp_path: Path) -> None:
    """At whatever point it fails."""
    import shutil

    broken = shutil.copytree(template, tmp_path / "template")
    hook = broken / "hooks/post_gen_project.py"
    hook.write_text(hook.read_text() + "\nraise SystemExit('broken')\n")
    done = cookiecutter_at(tmp_path, broken, tmp_path / "out", "--no-input")
    assert done.returncode != 0
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(AssertionError, match="broken"):
        generate(broken, tmp_path / "again")
