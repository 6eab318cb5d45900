"""Change a function in one place: the mistakes that a learner might make, by rule."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator

Change = Callable[[ast.AST], list[ast.AST]]

DROPPED = {  # methods and functions without which a learner may forget the step
    "abs", "acos", "clamp", "cumprod", "detach", "double", "exp", "flip", "float", "log", "round",
    "sqrt", "square", "softmax", "permute", "transpose", "view", "to", "mean", "sum", "real",
}  # fmt: skip
TURNED = {
    "sin": "cos", "cos": "sin", "min": "max", "max": "min", "mean": "sum", "sum": "mean",
    "acos": "asin", "cumprod": "cumsum", "var": "std", "exp": "expm1", "log": "log1p",
    "round": "floor", "any": "all", "indices": "values", "values": "indices", "rand": "randn",
}  # fmt: skip
OPERATORS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div], ast.MatMult: [ast.Mult], ast.Pow: [ast.Mult],
}  # fmt: skip
COMPARISONS = {
    ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.Lt],
}  # fmt: skip


def mutants(
    source: str, name: str, endings: tuple[str, ...] = (), swap_names: bool = False
) -> Iterator[tuple[str, str]]:
    """Each change of a function or class, as (what has changed, the changed source).

    Args:
        source: of the functions, the one of that name and its helpers.
        name: of the function or class that is asked for.
        endings: methods that are appended to what it returns: "detach", "float".
        swap_names: whether variables are replaced by others too, which gives many more changes.
    """
    tree = ast.parse(source)
    names = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    seen = {ast.unparse(tree)}
    for top in tree.body:
        if getattr(top, "name", None) not in names:
            continue
        arguments, variables = _names(top)
        annotations = _annotations(top)
        for index, node in enumerate(list(ast.walk(top))):
            if node in annotations:
                continue
            ends = endings if top.name == name else ()
            for what, new in _changes(node, arguments, variables if swap_names else [], ends):
                changed = _replaced(tree, top, index, new)
                text = ast.unparse(changed)
                if text not in seen:
                    seen.add(text)
                    before, after = ast.unparse(node), ast.unparse(new)
                    if isinstance(node, ast.Name):
                        before += f" in line {node.lineno}, column {node.col_offset}"
                    yield f"{what}: {before.strip()[:60]} -> {after.strip()[:60]}", text


def _names(top: ast.AST) -> tuple[list[str], list[str]]:
    """The arguments of a function, and all of its variables."""
    arguments = [n.arg for n in ast.walk(top) if isinstance(n, ast.arg) and n.arg != "self"]
    stored = [
        n.id for n in ast.walk(top) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
    return arguments, list(dict.fromkeys([*arguments, *stored]))


def _annotations(top: ast.AST) -> set[ast.AST]:
    """All nodes of type hints."""
    hints = [getattr(n, "annotation", None) or getattr(n, "returns", None) for n in ast.walk(top)]
    return {inner for hint in hints if hint for inner in ast.walk(hint)}


def _replaced(tree: ast.Module, top: ast.AST, index: int, new: ast.AST) -> ast.Module:
    """A copy of a module, in which the node at a place of the walk is another one."""
    copied = copy.deepcopy(tree)
    top = copied.body[tree.body.index(top)]
    target = list(ast.walk(top))[index]
    for parent in ast.walk(copied):
        for field, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(v is target for v in value):
                setattr(parent, field, [new if v is target else v for v in value])
    return ast.fix_missing_locations(copied)


def _changes(
    node: ast.AST, arguments: list[str], variables: list[str], endings: tuple[str, ...]
) -> Iterator[tuple[str, ast.AST]]:
    for rule in (_of_operators, _of_calls, _of_numbers, _of_branches):
        yield from rule(node)
    yield from _of_statements(node, endings)
    yield from _in_place(node, arguments)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in variables:
        for other in variables:
            if other != node.id:
                yield "another variable", ast.Name(other, ast.Load())


def _of_operators(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.BinOp):
        for other in OPERATORS.get(type(node.op), []):
            yield "another operator", ast.BinOp(node.left, other(), node.right)
        yield "a part is missing", node.left
        yield "a part is missing", node.right
        if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult, ast.FloorDiv)):
            yield "swapped sides", ast.BinOp(node.right, node.op, node.left)
        for side in ("left", "right"):
            part = getattr(node, side)
            if isinstance(part, ast.Constant):
                continue
            if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
                for power in (0.5, 2):
                    changed = ast.BinOp(part, ast.Pow(), ast.Constant(power))
                    yield "a root or a square", _with(node, side, changed)
                yield "a sign", _with(node, side, ast.UnaryOp(ast.USub(), part))
        inner = node.left  # (a - b) / c -> a - b / c
        if (
            isinstance(node.op, (ast.Mult, ast.Div))
            and isinstance(inner, ast.BinOp)
            and isinstance(inner.op, (ast.Add, ast.Sub))
        ):
            right = ast.BinOp(inner.right, node.op, node.right)
            yield "brackets are missing", ast.BinOp(inner.left, inner.op, right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield "a sign", node.operand
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARISONS.get(type(node.ops[0]), []):
            yield "another comparison", ast.Compare(node.left, [other()], node.comparators)


def _with(node: ast.AST, field: str, value: ast.AST) -> ast.AST:
    changed = copy.copy(node)
    setattr(changed, field, value)
    return changed


def _of_calls(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Attribute) and node.attr in TURNED and isinstance(node.ctx, ast.Load):
        yield "another function", ast.Attribute(node.value, TURNED[node.attr], node.ctx)
    if isinstance(node, ast.Name) and node.id in ("min", "max"):
        yield "another function", ast.Name(TURNED[node.id], ast.Load())
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED:
        is_function = isinstance(node.func.value, ast.Name) and node.func.value.id in (
            "torch", "math", "np",
        )  # fmt: skip
        yield "a call is missing", node.args[0] if is_function and node.args else node.func.value
    called = getattr(node.func, "attr", getattr(node.func, "id", ""))
    for k in range(0 if called in ("min", "max", "transpose") else len(node.args) - 1):
        args = list(node.args)
        args[k], args[k + 1] = args[k + 1], args[k]
        yield "swapped arguments", ast.Call(node.func, args, node.keywords)
    for k in range(len(node.keywords)):
        if node.keywords[k].arg == "device":
            continue  # makes a difference on machines with a GPU alone
        rest = [*node.keywords[:k], *node.keywords[k + 1 :]]
        yield "an option is missing", ast.Call(node.func, node.args, rest)
    if any(isinstance(n, ast.Attribute) and n.attr == "float64" for n in ast.walk(node)):
        yield "float32", ast.Call(ast.Attribute(node, "float", ast.Load()), [], [])


def _of_numbers(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        if not isinstance(node.slice, (ast.Slice, ast.Tuple)):
            for by in (-1, 1):
                moved = ast.BinOp(node.slice, ast.Add(), ast.Constant(by))
                yield "an index by one", ast.Subscript(node.value, moved, node.ctx)
            if isinstance(node.slice, (ast.Name, ast.BinOp)):
                yield "-1 as index", ast.Subscript(node.value, ast.Constant(-1), node.ctx)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "a number", ast.Constant(node.value + 1)
        yield "a number", ast.Constant(node.value - 1)
        if type(node.value) is float:
            yield "a number", ast.Constant(2 * node.value)
            yield "a number", ast.Constant(node.value / 2)


def _of_branches(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.IfExp):
        yield "swapped branches", ast.IfExp(node.test, node.orelse, node.body)
        yield "one branch alone", node.body
        yield "one branch alone", node.orelse
    if isinstance(node, ast.If):
        always = ast.Constant(True)
        yield "one branch alone", ast.If(always, node.body, node.orelse)
        yield "one branch alone", ast.If(ast.Constant(False), node.body, node.orelse)
        if node.orelse:
            yield "swapped branches", ast.If(node.test, node.orelse, node.body)
    if isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.ctx, ast.Load):
        yield "swapped parts", ast.Tuple(node.elts[::-1], node.ctx)
    if isinstance(node, ast.For):
        yield "only the first turn", _with(node, "body", [*node.body, ast.Break()])


def _of_statements(node: ast.AST, endings: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Return) and node.value is not None:
        yield "nothing is returned", ast.Expr(node.value)
        for method in endings:
            call = ast.Call(ast.Attribute(node.value, method, ast.Load()), [], [])
            yield f"{method} at the end", ast.Return(call)
    if isinstance(node, (ast.Assign, ast.AugAssign)):
        yield "a line is missing", ast.Pass()


def _in_place(node: ast.AST, arguments: list[str]) -> Iterator[tuple[str, ast.AST]]:
    """x * y becomes x.mul_(y), and x.clamp(...) x.clamp_(...), where x is an argument."""
    names = {ast.Add: "add_", ast.Sub: "sub_", ast.Mult: "mul_", ast.Div: "div_"}
    if isinstance(node, ast.BinOp) and type(node.op) in names:
        for x, y in ((node.left, node.right), (node.right, node.left)):
            commutes = isinstance(node.op, (ast.Add, ast.Mult)) or x is node.left
            if isinstance(x, ast.Name) and x.id in arguments and commutes:
                method = ast.Attribute(x, names[type(node.op)], ast.Load())
                yield "in place", ast.Call(method, [y], [])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        value, attr = node.func.value, node.func.attr
        if isinstance(value, ast.Name) and value.id in arguments and attr in ("clamp", "sqrt"):
            method = ast.Attribute(value, f"{attr}_", ast.Load())
            yield "in place", ast.Call(method, node.args, node.keywords)
