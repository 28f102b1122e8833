# SPDX-License-Identifier: Apache-2.0
"""Finds which fields of which dataclasses a package reads, by parsing it.

A read counts where the type of the object is known: parameters and fields
with annotations, calls of functions with annotated results, and names assigned from
any of these. A dataclass that only checks itself (`__post_init__`) reads nothing.
"""

import ast
import collections

Types = frozenset[str]
NOTHING: Types = frozenset()


def _is_property(node) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        getattr(decorator, "id", "") == "property" for decorator in node.decorator_list
    )


class FieldReaders:
    """Which (class, field) pairs some sources read."""

    def __init__(self, sources: list[str]):
        trees = [ast.parse(source) for source in sources]
        self.reads: set[tuple[str, str]] = set()
        self._fields = collections.defaultdict(dict)  # class -> name -> types
        self._results = collections.defaultdict(frozenset)  # function -> types
        self._aliases: dict[str, ast.expr] = {}
        for tree in trees:
            self._declare(tree)
        # Twice, so that attributes set in one method are known in all.
        for tree in [*trees, *trees]:
            self._walk(tree.body, {}, None)

    def _declare(self, tree):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._aliases.setdefault(node.targets[0].id, node.value)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self._results[node.name] |= {node.name}
                for part in node.body:
                    if isinstance(part, ast.AnnAssign):
                        types = self._annotated(part.annotation)
                        self._fields[node.name][part.target.id] = types
                    elif _is_property(part):
                        types = self._annotated(part.returns)
                        self._fields[node.name][part.name] = types
            elif isinstance(node, ast.FunctionDef) and node.returns:
                self._results[node.name] |= self._annotated(node.returns)

    def _annotated(self, node, depth=0) -> Types:
        """Class names of an annotation; of an alias, what it stands for."""
        if isinstance(node, ast.BinOp):
            return self._annotated(node.left, depth) | self._annotated(
                node.right, depth
            )
        if isinstance(node, ast.Attribute):
            return frozenset({node.attr})
        if not isinstance(node, ast.Name):
            return NOTHING
        alias = self._aliases.get(node.id)
        if isinstance(alias, ast.BinOp) and depth < 3:
            return self._annotated(alias, depth + 1)
        return frozenset({node.id})

    def _typed(self, node, scope) -> Types:
        """Types of an expression; notes the fields that it reads."""
        if isinstance(node, ast.Name):
            return scope.get(node.id, NOTHING)
        if isinstance(node, ast.Attribute):
            owners = self._typed(node.value, scope)
            self.reads |= {(owner, node.attr) for owner in owners}
            inner = (self._fields[o].get(node.attr, NOTHING) for o in owners)
            return frozenset().union(*inner)
        if isinstance(node, ast.Call):
            for part in ast.iter_child_nodes(node):
                self._expression(part, scope)
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name == "replace" and node.args:  # dataclasses.replace
                return self._typed(node.args[0], scope)
            return self._results.get(name, NOTHING)
        self._expression(node, scope)
        return NOTHING

    def _expression(self, node, scope):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call):
            self._typed(node, scope)
            return
        for part in ast.iter_child_nodes(node):
            self._expression(part, scope)

    def _function(self, node, scope, owner):
        if node.name == "__post_init__":
            return
        scope, arguments = dict(scope), node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in named:
            scope[argument.arg] = self._annotated(argument.annotation)
        if owner and named and named[0].arg == "self":
            scope["self"] = frozenset({owner})
        self._walk(node.body, scope, None)

    def _assign(self, targets, value, scope):
        types = self._typed(value, scope)
        for target in targets:
            if isinstance(target, ast.Name):
                scope[target.id] = types
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                for name, part in zip(target.elts, value.elts, strict=False):
                    self._assign([name], part, scope)
            elif isinstance(target, ast.Attribute):
                for owner in self._typed(target.value, scope):
                    self._fields[owner][target.attr] = types

    def _walk(self, body, scope, owner):
        for node in body:
            if isinstance(node, ast.ClassDef):
                self._walk(node.body, scope, node.name)
            elif isinstance(node, ast.FunctionDef):
                self._function(node, scope, owner)
            elif isinstance(node, ast.Assign):
                self._assign(node.targets, node.value, scope)
            else:
                for field in ("test", "iter", "value", "items", "exc", "subject"):
                    self._each(getattr(node, field, None), scope)
                for field in ("body", "orelse", "handlers", "finalbody", "cases"):
                    self._walk(getattr(node, field, []), scope, owner)

    def _each(self, value, scope):
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                self._expression(node, scope)
