"""Which error codes the package can raise, read from its sources, and what the documentation says of each."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

__all__ = ["EXPLANATIONS", "Codes", "error_tables", "find_codes"]

ROOT = Path(__file__).parents[1]
EXPLANATIONS = ROOT / "docs" / "error_codes.yaml"

_CODE = re.compile(r"[a-z]+(_[a-z]+)*")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Codes:
    """What `find_codes` has found.

    Attributes:
        kinds: by code, the names of the error classes that carry it, as far as the sources tell.
        untraced: places (`FILE:LINE`) whose code comes from somewhere that is not understood.
    """

    kinds: dict[str, set[str]] = field(default_factory=dict)
    untraced: list[str] = field(default_factory=list)


def find_codes(package: Path = ROOT / "src" / "xpsr") -> Codes:
    """Returns the codes of all errors in a package: of classes, of `code=`, of defaults and of arguments for `code`."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    errors = _error_classes([node for node in nodes if isinstance(node, ast.ClassDef)])
    everywhere = {node.name: node for node in nodes if isinstance(node, _Function)}
    found = Codes()

    def enter(codes: set[str], kind: str | None) -> None:
        for code in codes:
            found.kinds.setdefault(code, set()).update(filter(None, (kind,)))

    for path, tree in trees.items():
        functions = everywhere | {node.name: node for node in ast.walk(tree) if isinstance(node, _Function)}
        for owner, node in _owned(tree):
            if isinstance(node, ast.ClassDef) and node.name in errors:
                for line in node.body:
                    if isinstance(line, ast.Assign) and _name(line.targets[0]) == "code":
                        enter(_texts(line.value, owner), node.name)
            elif isinstance(node, _Function):
                for name, default in _defaults(node):
                    if name == "code":
                        enter(_texts(default, owner), _kind(node.returns, errors))
            elif isinstance(node, ast.Dict):  # of an error that goes from process to process
                for key, one in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "code":
                        enter(_texts(one, owner), None)
            elif isinstance(node, ast.Call) and (value := _given_code(node, functions)) is not None:
                codes = _texts(value, owner)
                enter(codes, _kind_of_call(node, errors, functions))
                if not codes and isinstance(value, ast.Name) and not _is_argument(value.id, owner):
                    found.untraced.append(f"{path.relative_to(package)}:{node.lineno}")
    return found


def error_tables(kinds: Mapping[str, set[str]]) -> str:
    """Returns the explanations of these codes as Markdown, a table for each subject."""
    lines = []
    for subject, rows in yaml.safe_load(EXPLANATIONS.read_text(encoding="utf-8")).items():
        there = [code for code in rows if code in kinds]
        if there:
            lines += [f"### {subject}", "", "| code | error | what it means | what to do |", "|---|---|---|---|"]
            for code in there:
                classes = ", ".join(f"`{kind}`" for kind in sorted(kinds[code]))
                means, remedy = rows[code]
                lines.append(f'| <span id="{code}">`{code}`</span> | {classes} | {means} | {remedy} |')
            lines.append("")
    return "\n".join(lines)


def _error_classes(classes: list[ast.ClassDef]) -> set[str]:
    """Names of `XPSRError` and what derives from it."""
    names = {"XPSRError"}
    while more := {node.name for node in classes if names & {*map(_name, node.bases)}} - names:
        names |= more
    return names


def _owned(tree: ast.AST, owner: _Function | None = None) -> Iterator[tuple[_Function | None, ast.AST]]:
    """Yields all nodes, each with the function that it stands in."""
    for node in ast.iter_child_nodes(tree):
        yield owner, node
        yield from _owned(node, node if isinstance(node, _Function) else owner)


def _given_code(call: ast.Call, functions: Mapping[str, _Function]) -> ast.expr | None:
    """What a call gives for an argument `code`, by name or by place."""
    for keyword in call.keywords:
        if keyword.arg == "code":
            return keyword.value
    function = functions.get(_name(call.func))
    names = [] if function is None else [argument.arg for argument in function.args.posonlyargs + function.args.args]
    if "code" not in names:
        return None
    place = names.index("code") - (names[0] in ("self", "cls"))
    return call.args[place] if place < len(call.args) else None


def _texts(value: ast.expr, owner: _Function | None) -> set[str]:
    """The codes that an expression may be; of a name, what the function assigns to it."""
    match value:
        case ast.Constant(value=str(text)):
            return {text} if _CODE.fullmatch(text) else set()
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body, owner) | _texts(orelse, owner)
        case ast.Call(func=ast.Attribute(value=ast.Dict(values=values), attr="get"), args=[_, default]):
            return {code for one in (*values, default) for code in _texts(one, owner)}
        case ast.BoolOp(values=values):
            return {code for one in values for code in _texts(one, owner)}
        case ast.Name(id=name) if owner is not None:
            return {code for one in _assigned(name, owner) for code in _texts(one, None)}
    return set()


def _assigned(name: str, owner: _Function) -> Iterator[ast.expr]:
    """Yields what a function assigns to a name, also as a part of a tuple or in a loop over a tuple of tuples."""
    for node in ast.walk(owner):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _parts(target, node.value, name)
        elif isinstance(node, ast.For):
            values = node.iter
            if isinstance(values, ast.Name):
                values = next(iter(_assigned(values.id, owner)), values)
            for one in values.elts if isinstance(values, ast.Tuple | ast.List) else ():
                yield from _parts(node.target, one, name)


def _parts(target: ast.expr, value: ast.expr, name: str) -> Iterator[ast.expr]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, other in zip(target.elts, value.elts, strict=False):
            yield from _parts(one, other, name)
    elif isinstance(target, ast.Name) and target.id == name:
        yield value


def _is_argument(name: str, owner: _Function | None) -> bool:
    """Whether a name is an argument of the function, so that its callers tell."""
    arguments = owner.args if owner is not None else None
    return arguments is not None and any(
        argument.arg == name for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    )


def _defaults(function: _Function) -> Iterator[tuple[str, ast.expr]]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(reversed(positional), reversed(arguments.defaults), strict=False)]
    pairs += [
        (one, default) for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default
    ]
    for one, default in pairs:
        yield one.arg, default


def _kind_of_call(call: ast.Call, errors: set[str], functions: Mapping[str, _Function]) -> str | None:
    name = _name(call.func)
    if name == "recast":
        return _kind(call.args[0], errors)
    return name if name in errors else _kind(functions[name].returns, errors) if name in functions else None


def _kind(node: ast.expr | None, errors: set[str]) -> str | None:
    name = "" if node is None else _name(node)
    return name if name in errors else None


def _name(node: ast.expr) -> str:
    """The last name of an expression such as `InputError`, `errors.InputError` or `self.code`; empty: it has none."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
