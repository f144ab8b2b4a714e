"""Shows `option(default, explanation, rule)` as a default with a docstring, for the Python reference."""

import ast
from typing import Any

from griffe import Attribute, Docstring, ExprCall, Extension

__all__ = ["Options"]


class Options(Extension):
    """An extension of griffe, which mkdocstrings reads Python with; `mkdocs.yml` names it."""

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **kwargs: Any) -> None:
        """Replaces a field's call of `option` by what the call is given."""
        if not isinstance(attr.value, ExprCall) or str(attr.value.function) != "option":
            return
        attr.value = attr.value.arguments[0]
        given = node.value.args[1:2]
        explanation = given[0].value if given and isinstance(given[0], ast.Constant) else None
        if isinstance(explanation, str) and explanation and attr.docstring is None:
            attr.docstring = Docstring(explanation, parent=attr, lineno=attr.lineno)
