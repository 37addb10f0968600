"""Write docs/api.md from the docstrings of everything that grpo_core exports, and of what else is public.

Run as `python packages/grpo-core/scripts/write_api_reference.py`; it reads the sources and imports nothing of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SOURCE = PACKAGE / "src" / "grpo_core"
PAGE = PACKAGE / "docs" / "api.md"
HEADER = """# API reference

Written by `scripts/write_api_reference.py` from the docstrings; do not edit. Everything here is imported from
`grpo_core`, or, in the second part, from the module that is named; whatever is not here may change without notice.
"""
FURTHER = {
    "advantages": ("AdvantageFn",),
    "collection": ("Collected", "KeepRule", "Replay", "every_group"),
    "config": ("EntropySchedule",),
    "distributed": ("gather",),
    "errors": (),  # all of them
    "executors": (),
    "groups": ("GroupSource", "stable_seed"),
    "gym": ("VectorRollout",),
    "losses": ("Aggregation", "Surrogate", "SurrogateLoss"),
    "trajectory": ("Evaluated", "Policy"),
}
"""By module, public names that the package does not export; those that it lists itself, or all classes, where empty."""
SECTIONS = ("Args", "Returns", "Raises", "Yields")


def exports(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields the file and the name of everything that a package's `__init__.py` imports from its own modules."""
    for node in ast.parse((folder / "__init__.py").read_text()).body:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        path = SOURCE.parent.joinpath(*node.module.split("."))
        names = {alias.name for alias in node.names}
        if path.is_dir():
            yield from ((file, name) for file, name in exports(path) if name in names)
        else:
            yield from ((path.with_suffix(".py"), alias.name) for alias in node.names)


def further() -> Iterator[tuple[str, Path, str]]:
    """Yields the module, the file and the name of everything that is public beside the exports, by module."""
    exported = {name for _, name in exports(SOURCE)}
    for module, names in FURTHER.items():
        file = SOURCE / f"{module}.py"
        found = [(file, name) for name in names]
        if (SOURCE / module).is_dir():
            found = list(exports(SOURCE / module))
        elif not names:
            found = [(file, node.name) for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
        yield from ((f"{SOURCE.name}.{module}", file, name) for file, name in found if name not in exported)


def module_name(file: Path) -> str:
    """The dotted name of a source file."""
    return ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)


def definition(file: Path, name: str) -> tuple[ast.stmt, str]:
    """The top-level statement that defines `name`, and the docstring of it or below it.

    Raises:
        LookupError: There is none, or it is undocumented.
    """
    body = ast.parse(file.read_text()).body
    for place, node in enumerate(body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            text = ast.get_docstring(node)
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            text = text_of(body[place + 1]) if place + 1 < len(body) else None
        else:
            continue
        if not text and isinstance(node, ast.ClassDef | ast.FunctionDef):
            raise LookupError(f"`{name}` in {module_name(file)} has no docstring; write one.")
        return node, text or ""
    raise LookupError(f"{module_name(file)} exports `{name}`, but does not define it.")


def text_of(node: ast.stmt) -> str | None:
    """The text of a string that stands alone, such as the docstring of a field."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return re.sub(r"\s*\n\s*", " ", node.value.value).strip()
    return None


def markdown(docstring: str) -> str:
    """Turns the sections of a Google-style docstring into lists, and leaves the rest as it is."""
    lines, inside = [], False
    for line in docstring.splitlines():
        if heading := re.fullmatch(r"(\w+):", line):
            inside = heading[1] in SECTIONS
            lines += [f"**{heading[1]}**", ""]
        elif inside and (entry := re.fullmatch(r"    (\*{0,2}\w+): (.*)", line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            continues = inside and bool(lines) and lines[-1].startswith(("- ", "  "))
            lines.append(re.sub(r"^    (  )?", "  " if continues else "", line))
    return "\n".join(lines)


def signature(node: ast.FunctionDef, *, method: bool) -> str:
    """A function's name, arguments and result, on one line or one argument a line."""
    arguments = ast.unparse(node.args)
    if method and not any(ast.unparse(mark) == "staticmethod" for mark in node.decorator_list):
        arguments = re.sub(r"^(self|cls)(, /)?(, )?", "", arguments)
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({arguments}){result}"


def class_entry(node: ast.ClassDef) -> Iterator[str]:
    """Its fields with their defaults, and its public methods."""
    for place, item in enumerate(node.body):
        if isinstance(item, ast.AnnAssign | ast.Assign):
            target = item.target if isinstance(item, ast.AnnAssign) else item.targets[0]
            name = ast.unparse(target)
            text = text_of(node.body[place + 1]) if place + 1 < len(node.body) else None
            if name.startswith("_") or not text:
                continue
            kind = f": {ast.unparse(item.annotation)}" if isinstance(item, ast.AnnAssign) else ""
            default = f" = {ast.unparse(item.value)}" if item.value is not None else ""
            yield f"- `{name}{kind}{default}`  \n  {text}"
    for item in node.body:
        if not isinstance(item, ast.FunctionDef):
            continue
        if item.name == "__init__" and (arguments := signature(item, method=True)) != "__init__() -> None":
            yield f"```python\n{node.name}{arguments.removeprefix('__init__').removesuffix(' -> None')}\n```"
        text = ast.get_docstring(item)
        if text and (not item.name.startswith("_") or item.name == "__call__"):
            marks = {ast.unparse(mark) for mark in item.decorator_list}
            shown = f"{item.name}{signature(item, method=True).partition(')')[2]}" if "property" in marks else None
            yield f"#### `{shown or signature(item, method=True)}`\n\n{markdown(text)}"


def entry(file: Path, name: str) -> str:
    """The text about one export."""
    node, text = definition(file, name)
    parts = [f"### `{name}`"]
    if isinstance(node, ast.FunctionDef):
        parts += [f"```python\n{signature(node, method=False)}\n```", markdown(text)]
    elif isinstance(node, ast.ClassDef):
        parts += [markdown(text), *class_entry(node)]
    else:
        parts += [f"`{ast.unparse(node)}`", text]
    return "\n\n".join(part for part in parts if part)


def reference() -> str:
    """The whole page."""
    parts, current = [HEADER.strip()], None
    for file, name in exports(SOURCE):
        if file != current:
            doc = ast.get_docstring(ast.parse(file.read_text())) or ""
            parts.append(f"## {module_name(file)}\n\n{doc}")
            current = file
        parts.append(entry(file, name))
    parts.append("# Further names")
    for module, file, name in further():
        if (heading := f"## From `{module}`") not in parts:
            parts.append(heading)
        parts.append(entry(file, name))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference())
