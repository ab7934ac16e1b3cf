"""Signatures of the public classes, for the reference.

Griffe reads source text, where an `equinox.Module` has no `__init__`. Asked is the class
itself, as `help` would.
"""

import importlib
import inspect

import griffe


KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}


class Signatures(griffe.Extension):
    def on_class(self, *, cls, loader, **kwargs):
        public = vars(importlib.import_module("implicit_eig"))
        thing = public.get(cls.name)
        if not inspect.isclass(thing) or "__init__" in cls.members:
            return
        if thing.__module__ != cls.module.path or inspect.isabstract(thing):
            return
        try:
            signature = inspect.signature(thing)
        except ValueError:
            return
        parameters = [
            griffe.Parameter(
                parameter.name,
                annotation=_annotation(cls, parameter.name),
                kind=KINDS[parameter.kind],
                default=None
                if parameter.default is parameter.empty
                else _shown(parameter),
            )
            for parameter in signature.parameters.values()
            if not parameter.name.startswith("_")
        ]
        first = griffe.Parameter("self", kind=KINDS[inspect.Parameter.POSITIONAL_ONLY])
        cls["__init__"] = griffe.Function(
            "__init__", parameters=griffe.Parameters(first, *parameters)
        )


def _annotation(cls, name):
    """That of the field of this name."""
    member = cls.members.get(name)
    return member.annotation if isinstance(member, griffe.Attribute) else None


def _shown(parameter):
    return repr(parameter.default)
