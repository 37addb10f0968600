from __future__ import annotations

import re
from pathlib import Path

import grpo_core

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_program_in_the_readme_learns(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(program.splitlines()) <= 50
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    shares = [int(share) for share in re.findall(r"(\d+)% in", capsys.readouterr().out)]
    assert len(shares) == 60
    assert sum(shares[:5]) / 5 < 20
    assert sum(shares[-5:]) / 5 > 80


def test_every_name_in_the_readme_exists():
    inline = re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`", README)
    known = {name for name in inline if name.split(".")[0] in grpo_core.__all__}
    foreign = {"evaluate", "partial", "functools.partial"}
    assert len(known) > 20
    assert set(inline) - known == foreign & set(inline)
    for name in known:
        owner, _, member = name.partition(".")
        assert not member or hasattr(getattr(grpo_core, owner), member), name


def test_every_recipe_in_the_readme_is_a_valid_configuration():
    from functools import partial

    rows = re.findall(r"^\| [^|]*arXiv [^|]*\| `(.*)` \|$", README, flags=re.MULTILINE)
    assert len(rows) == 7
    scope = {name: getattr(grpo_core, name) for name in grpo_core.__all__} | {"partial": partial}
    for row in rows:
        eval(f"GRPOConfig({row.replace('...', '8.0')})", scope)
