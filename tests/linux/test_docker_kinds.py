"""Container tests of generated projects: each pair of answers to any two options is in one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from allpairspy import AllPairs  # type: ignore[import-untyped]
from baking import OPTIONS, bake, copy_template
from projects import DECIDES, TRIED, assert_passed, make_with_our_tools
from trust_process import NIGHTLY

# Images that are here, with a shell and without one; and the Python in them.
IMAGES = {f"python:{DECIDES}-slim": DECIDES, f"python:{DECIDES}-bare": DECIDES, f"python:{TRIED}-slim": TRIED}
# What has most answers goes first, or the pairs would need more projects.
CHOICES = {
    "license": OPTIONS["license"],
    "image": list(IMAGES),
    "protocol": OPTIONS["protocol"],
    "ci": OPTIONS["ci"],
    "pool": OPTIONS["pool"],
}


def rows() -> list[Any]:
    """Those with a protocol and pool, or an image, that none before has are tried in each run."""
    found: list[Any] = []
    seen: set[Any] = set()
    for row in AllPairs(list(CHOICES.values())):
        answers = dict(zip(CHOICES, row, strict=True))
        new = {(answers["protocol"], answers["pool"]), answers["image"]} - seen
        seen |= new
        found.append(pytest.param(answers, id="-".join(row), marks=() if new else NIGHTLY))
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("answers", rows())
def test_kind_passes_its_own_tests(answers: dict[str, str], tmp_path: Path) -> None:
    image = answers["image"]
    version = IMAGES[image]
    rest = {option: answer for option, answer in answers.items() if option != "image"}
    project = bake(copy_template(tmp_path / "template"), tmp_path / "baked", python_version=version, **rest)
    assert_passed(make_with_our_tools(project, "test-integration", PYTHON_IMAGE=image), version)
