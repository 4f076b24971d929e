"""Write the table of options in README.md from cookiecutter.json: `python docs/options.py`. A test compares."""

import json
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- begin options: made by docs/options.py -->\n", "<!-- end options -->\n"


def table() -> str:
    options = json.loads((REPOSITORY / "cookiecutter.json").read_text(encoding="utf-8"))
    lines = ["| option | default | |\n|---|---|---|\n"]
    for name, value in options.items():
        if name.startswith("_"):
            continue
        prompt = options["__prompts__"][name]
        if isinstance(value, list):
            words = dict(prompt) if isinstance(prompt, dict) else {"__prompt__": prompt}
            head = words.pop("__prompt__")
            each = "; ".join(f"`{one}`" + (f": {words[one]}" if words.get(one, one) != one else "") for one in value)
            lines.append(f"| `{name}` | {value[0]} | {head}: {each} |\n")
        else:
            lines.append(f"| `{name}` | {'' if '{{' in value else value} | {prompt} |\n")
    return "".join(lines)


def written(text: str) -> str:
    """The text with the table in its place."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    readme = REPOSITORY / "README.md"
    readme.write_text(written(readme.read_text(encoding="utf-8")), encoding="utf-8")
