"""Names for the kinds of part a config can ask for, with start-up checks of names and arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import importlib
import inspect
import pkgutil
from typing import Any, TypeVar

from radnet_jax.errors import UserError, nearest

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """Maps names to factories of one kind of part.

    Modules of `package` register themselves with `@REGISTRY.register("name")`; the package is scanned at the first
    look-up, so adding a file is all that a new part needs.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self._package = package
        self._factories: dict[str, Callable[..., Any]] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(factory: T) -> T:
            if name in self._factories:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._factories[name] = factory
            return factory

        return add

    def _scan(self) -> None:
        if self._scanned:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"{self._package}.{module.name}")
        self._scanned = True

    def names(self) -> list[str]:
        self._scan()
        return sorted(self._factories)

    def get(self, name: str) -> Callable[..., Any]:
        """Returns the factory called `name`; an unknown name raises a UserError that gives the nearest valid one."""
        self._scan()
        if name not in self._factories:
            raise UserError(
                f"unknown {self.kind} {name!r}{nearest(str(name), self._factories)}",
                expected=f"one of {', '.join(self.names())}",
            )
        return self._factories[name]

    def parameters(self, name: str) -> list[str]:
        """Returns the names of the arguments of the factory called `name`."""
        return list(inspect.signature(self.get(name)).parameters)

    def defaults(self, name: str) -> dict[str, Any]:
        """Returns the arguments of the factory called `name` that need not be given, with what they are then."""
        parameters = inspect.signature(self.get(name)).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}

    def build(self, name: str, kwargs: Mapping[str, Any] | None = None, **extra: Any) -> Any:
        """Calls the factory with a config section as keyword arguments; an unknown or missing argument is refused.

        `extra` is what the caller offers beside the config; a factory takes the ones that it names.
        """
        factory = self.get(name)
        kwargs = dict(kwargs or {})
        parameters = inspect.signature(factory).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            extra = {k: v for k, v in extra.items() if k in parameters}
        check_arguments(f"{self.kind} {name!r}", factory, kwargs, offered=extra)
        return factory(**kwargs, **extra)


def named(section: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Splits the section of a named part into its name and its arguments; lists, as JSON has them, become tuples."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items() if k != "name"}
    return str(section["name"]), arguments


def check_arguments(
    what: str, function: Callable[..., Any], kwargs: Mapping[str, Any], offered: Iterable[str] = ()
) -> None:
    """Refuses keyword arguments that a function has not, with the nearest valid name, missing ones, text for numbers.

    Args:
      what: the function's name for messages.
      function: what will be called.
      kwargs: arguments that a user gave.
      offered: names that the caller adds itself.
    """
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    offered = set(offered)
    valid = [k for k in parameters if k not in offered]
    for key in kwargs:
        if key not in valid:
            raise UserError(
                f"{what} has no argument {key!r}{nearest(key, valid)}", expected=f"of {', '.join(valid) or 'none'}"
            )
        default = parameters[key].default
        if isinstance(default, int | float) and isinstance(kwargs[key], str):
            kind = "True or False" if isinstance(default, bool) else f"a number, such as {default}"
            raise UserError(f"{what}: {key}", got=repr(kwargs[key]), expected=kind)
    missing = [k for k in valid if parameters[k].default is inspect.Parameter.empty and k not in kwargs]
    if missing:
        raise UserError(f"{what} needs the argument(s) {', '.join(missing)}")
