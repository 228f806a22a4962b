"""Which source files act on a class: its import closure, read from syntax trees. Imports nothing, needs no library.

A module is followed if it belongs to the project, to the package of a root, or to any other code that was not
installed as a library. Packages of the project whose ``__init__`` only passes names on are looked through: ``from
package import name`` leads to the module that defines the name, and to no other. The ``__init__`` of any other package
counts for all that is in it. What a module imports at run time (``importlib.import_module``) is not seen.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROJECT = "bacs"
_READER = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
"""This code, by which facts that other code has kept are told."""
_FOR_CHECKERS = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
_SKIPPED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}
LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
"""Where what was installed lies."""
CHECKS = ("bacs.errors", "bacs.schema")
"""Modules that say what is wrong with settings, and make nothing of data."""


@dataclass(frozen=True, slots=True)
class Import:
    """What one name of a module stands for."""

    module: str
    """Absolute."""
    name: str | None
    """What is taken from it; ``None``: the module itself, ``*``: everything."""
    alias: str
    """How the importing module calls it."""
    attributes: tuple[str, ...] | None
    """All that is asked of it, as in ``alias.attribute``; ``None``: it is used in other ways too, or not at all."""


@dataclass(frozen=True, slots=True)
class Source:
    """What matters of one file."""

    digest: str
    """16 hex digits; comments, docstrings, formatting and what only type checkers read do not count."""
    imports: tuple[Import, ...]
    passes_on: bool
    """Whether it is a package of the project whose ``__init__`` has imports alone."""


@dataclass(frozen=True, slots=True)
class Closure:
    """All that acts on some classes."""

    modules: dict[str, str]
    """Name -> digest of its source."""
    libraries: frozenset[str]
    """Top-level names of the installed packages that modules outside the project import."""


def closure(
    roots: Iterable[str], stops: Collection[str] = (), beyond: Collection[str] = (), never: Collection[str] = ()
) -> Closure:
    """The modules that some modules import, and these import, and so on.

    Args:
        roots: names of modules.
        stops: modules and packages that are not entered from the first root; a root of its own is, where it is one.
        beyond: of these, what is entered from no root.
        never: of these, what is not entered from modules outside the project either.
    """
    first, *others = roots
    owners = frozenset(root.partition(".")[0] for root in (first, *others))
    found: dict[str, str] = {}
    libraries: set[str] = set()
    for root, closed in ((first, stops), *((root, beyond) for root in others)):
        waiting: list[tuple[str, Collection[str]]] = [(root, ())]
        while waiting:
            module, barred = waiting.pop()
            if module in found or lies_in(module, barred):
                continue
            source = source_of(module, owners)
            if source is None:
                continue
            found[module] = source.digest
            is_ours = module.partition(".")[0] == _PROJECT
            barred = closed if is_ours else never
            waiting += [(package, barred) for package in _parents(module, owners)]
            for needed in source.imports:
                top = needed.module.partition(".")[0]
                kind = "source" if top == _PROJECT or top in owners else ""
                if not is_ours:  # the project itself imports libraries, and nobody's own code
                    kind = _kind(top, owners)
                if kind == "source":
                    waiting += [(target, barred) for target in _targets(needed, owners)]
                elif kind == "library":
                    libraries.add(top)
    return Closure(dict(sorted(found.items())), frozenset(libraries))


def file_of(module: str) -> str:
    """How people are told of a module: by the path of its file, from the folder of its top-level package on."""
    path = _path(module)
    if path is not None and path.name == "__init__.py":
        return f"{module.replace('.', '/')}/__init__.py"
    return f"{module.replace('.', '/')}{'.py' if path is None else path.suffix}"


def current(modules: Iterable[str]) -> dict[str, str]:
    """The digests of modules as they are now; a module that is gone has an empty one."""
    digests = {}
    for module in modules:
        source = source_of(module, frozenset([module.partition(".")[0]]))
        digests[module] = "" if source is None else source.digest
    return digests


def digest_of(*modules: str, stops: Collection[str] = CHECKS) -> str:
    """16 hex digits of the closure of some modules, to name what they have made. Args: stops: what does not count."""
    found = [closure([module], stops, stops, stops).modules for module in modules]
    text = json.dumps(found, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_of(module: str, owners: frozenset[str]) -> Source | None:
    """``None`` for modules that are not followed: of libraries, of Python, missing.

    What was read first counts until the process ends, as that is the code that it runs.
    """
    if _kind(module.partition(".")[0], owners) != "source":
        return None
    path = _path(module)
    return None if path is None else _read(module, path)


# ---------------------------------------------------------------- finding modules


@functools.cache
def _kind(top: str, owners: frozenset[str]) -> str:
    """Of a top-level name: ``source`` that is followed, ``library``, or ``""``: of Python itself, or nowhere."""
    if top in sys.stdlib_module_names:
        return ""
    folders = _folders(top)
    if not folders:
        return ""
    installed = any(LIBRARY_FOLDERS & set(folder.parts) for folder in folders)
    return "library" if installed and top not in (*owners, _PROJECT) else "source"


@functools.cache
def _folders(top: str) -> tuple[Path, ...]:
    """Where a top-level module, or the parts of a package, lie."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ()
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return tuple(map(Path, spec.submodule_search_locations))
    return (Path(spec.origin),) if spec.has_location and spec.origin else ()


@functools.cache
def _path(module: str) -> Path | None:
    """The file of a module; that of a package is its ``__init__``."""
    top, *inner = module.split(".")
    for folder in _folders(top):
        if folder.is_file():
            return None if inner else folder
        place = folder.joinpath(*inner)
        if "__init__.py" in _names(place):
            return place / "__init__.py"
        beside = _names(place.parent) if inner else frozenset()
        if f"{place.name}.py" in beside:
            return place.with_name(f"{place.name}.py")
        compiled = [name for name in beside if name.startswith(f"{place.name}.") and name.endswith(".so")]
        if compiled:
            return place.with_name(min(compiled))
    return None


@functools.cache
def _names(folder: Path) -> frozenset[str]:
    """What lies in a folder; empty where it is none."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208  # names alone are asked for
    except (OSError, ValueError):  # a name with a zero in it
        return frozenset()


def _parents(module: str, owners: frozenset[str]) -> list[str]:
    """Packages around a module that run code of their own when it is imported."""
    names = module.split(".")
    packages = [".".join(names[:i]) for i in range(1, len(names))]
    sources = ((package, source_of(package, owners)) for package in packages)
    return [package for package, source in sources if source is not None and not source.passes_on]


def _targets(needed: Import, owners: frozenset[str]) -> Iterator[str]:
    """The modules that an import leads to."""
    if needed.name is None or needed.name == "*":
        yield from _whole(needed.module, needed.attributes, owners)
        return
    inner = f"{needed.module}.{needed.name}"
    package = source_of(needed.module, owners)
    if _path(inner) is not None:
        yield from _whole(inner, needed.attributes, owners)
    elif package is not None and package.passes_on:
        for passed in package.imports:
            if passed.alias == needed.name and passed.name not in ("*", passed.alias):
                yield needed.module  # it gives it another name, which counts
            if passed.alias == needed.name and passed.name != "*":
                yield from _targets(Import(passed.module, passed.name, "", needed.attributes), owners)
            elif passed.name == "*":
                yield from _targets(passed, owners)
    else:
        yield needed.module


def _whole(module: str, attributes: tuple[str, ...] | None, owners: frozenset[str]) -> Iterator[str]:
    """A module; of a package that only passes names on, what is asked of it, or everything."""
    source = source_of(module, owners)
    if source is None or not source.passes_on:
        yield module
    elif attributes is not None:
        for name in attributes:
            yield from _targets(Import(module, name, "", None), owners)
    else:
        for passed in source.imports:
            yield from _targets(passed, owners)


def lies_in(module: str, packages: Collection[str]) -> bool:
    """Whether a module is one of some packages, or inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# ---------------------------------------------------------------- reading a module


@functools.cache
def _read(module: str, path: Path) -> Source:
    content = path.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    if path.suffix != ".py":
        return Source(checksum[:16], (), passes_on=False)
    kept = _kept(path, module, checksum)
    if kept is not None:
        return kept
    source = parse_source(content, module, is_package=path.name == "__init__.py")
    _keep(path, module, checksum, source)
    return source


def parse_source(content: bytes, module: str, *, is_package: bool) -> Source:
    """Reads one module; a file that Python cannot parse counts by its bytes and imports nothing."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Source(hashlib.sha256(content).hexdigest()[:16], (), passes_on=False)
    reader = _Reader(module, is_package)
    reader.read(tree)
    is_ours = is_package and module.partition(".")[0] == _PROJECT
    digest = hashlib.sha256("\0".join(reader.text).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Source(digest, tuple(reader.imports()), passes_on=is_ours and all(map(_only_passes_on, tree.body)))


class _Reader:
    """Writes a syntax tree as a canonical text, the same in every version of Python, and collects what it imports."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.text: list[str] = []
        self._package = module if is_package else module.rpartition(".")[0]
        self._bound: list[tuple[str, str | None, str, bool]] = []
        self._asked: dict[str, set[str]] = {}
        self._bare: set[str] = set()

    def read(self, node: ast.AST) -> None:
        """One node and all below it."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._bind(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            self._asked.setdefault(node.value.id, set()).add(node.attr)
            self.text += ("Attribute", node.value.id, node.attr)
            return
        elif isinstance(node, ast.Name):
            self._bare.add(node.id)
        self.text.append(type(node).__name__)
        for field in node._fields:
            value = getattr(node, field, None)
            if value is None or value == [] or field in _SKIPPED_FIELDS:
                continue
            self.text.append(field)
            if isinstance(value, ast.AST):
                self.read(value)
            elif isinstance(value, list):
                for item in value:
                    if not isinstance(item, ast.AST):
                        self.text.append(repr(item))
                    elif not _is_inert(item):
                        self.read(item)
                self.text.append(")")
            else:
                self.text.append(repr(value))

    def imports(self) -> Iterator[Import]:
        for module, name, alias, whole in self._bound:
            asked = self._asked.get(alias)
            plain = whole or asked is None or alias in self._bare
            yield Import(module, name, alias, None if plain or asked is None else tuple(sorted(asked)))

    def _bind(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._bound.append((alias.name, None, alias.asname or alias.name, alias.asname is None))
            return
        module = node.module or ""
        if node.level:
            base = self._package.split(".")
            base = base[: len(base) - node.level + 1]
            module = ".".join([*base, *filter(None, [module])])
        if module != "__future__":
            self._bound += [(module, alias.name, alias.asname or alias.name, False) for alias in node.names]


def _is_inert(node: ast.AST) -> bool:
    """Docstrings, and imports for type checkers alone."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) in _FOR_CHECKERS


def _only_passes_on(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Assign):
        return all(isinstance(t, ast.Name) and t.id.startswith("__") and t.id.endswith("__") for t in node.targets)
    return _is_inert(node)


# ---------------------------------------------------------------- what was read before


def _place(path: Path) -> Path | None:
    """Where Python itself keeps what it made of a file."""
    if sys.dont_write_bytecode:
        return None
    with suppress(NotImplementedError):
        return Path(importlib.util.cache_from_source(str(path))).with_name(f"{path.stem}.source.json")
    return None


def _kept(path: Path, module: str, checksum: str) -> Source | None:
    """What an earlier process made of the same bytes."""
    place = _place(path)
    if place is None:
        return None
    try:
        record: Any = json.loads(place.read_bytes())
        if record["of"] != [_READER, module, checksum]:
            return None
        imports = tuple(Import(m, n, a, asked and tuple(asked)) for m, n, a, asked in record["imports"])
        return Source(str(record["digest"]), imports, bool(record["passes_on"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _keep(path: Path, module: str, checksum: str, source: Source) -> None:
    place = _place(path)
    if place is None:
        return
    imports = [[i.module, i.name, i.alias, i.attributes] for i in source.imports]
    record = {"of": [_READER, module, checksum], "digest": source.digest, "passes_on": source.passes_on}
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    with suppress(OSError):  # a folder that cannot be written
        place.parent.mkdir(exist_ok=True)
        draft.write_text(json.dumps(record | {"imports": imports}), encoding="utf-8")
        draft.replace(place)
