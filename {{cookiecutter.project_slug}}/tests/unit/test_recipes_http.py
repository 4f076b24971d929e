"""The examples of docs/handlers.md do what they say."""

import re
from pathlib import Path

import pytest

from {{ cookiecutter.package_name }} import handlers

PAGE = (Path(__file__).parents[2] / "docs/handlers.md").read_text()
PARTS = re.split(r"^##+ (.*)\n", PAGE, flags=re.MULTILINE)
EXAMPLES = {
    title: re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for title, text in zip(PARTS[1::2], PARTS[2::2], strict=True)
}
START = "from .runtime.http import Request, Response, Router\n\nroutes = Router()\n"


@pytest.mark.parametrize("title", [title for title, blocks in EXAMPLES.items() if blocks])
def test_example(title: str, tmp_path: Path) -> None:
    """All blocks of a section, in a module of their own beside the project's."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/app.js").write_text("let a")
    module = {"__name__": f"{handlers.__package__}.example", "__package__": handlers.__package__}
    module["__file__"] = str(tmp_path / "handlers.py")
    for block in [START, *EXAMPLES[title]]:
        exec(block, module)


def test_every_example_is_tried() -> None:
    for title, blocks in EXAMPLES.items():
        assert not blocks or any("assert " in block for block in blocks), title
