"""Registers the project's architectures with SAELens as soon as SAELens is there, without importing it (6 s) for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

REGISTERED = "reseed.saes.registered"


class _RegisterAfter(Loader):
    """The loader of sae_lens; once it has run the package, the architectures are registered."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader  # SAELens sees itself as without this hook
        self.loader.exec_module(module)
        # if it is there, it is what imports SAELens, and waiting for it could be a deadlock of two threads
        if REGISTERED not in sys.modules:
            importlib.import_module(REGISTERED)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that the finders after this one give for sae_lens, with its loader wrapped; None for all else."""
        if name == "sae_lens":
            for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    spec.loader = spec.loader and _RegisterAfter(spec.loader)
                    return spec
        return None


_finder = _Finder()


def install() -> None:
    """Register now if sae_lens is imported, else right after its import; a second call changes nothing."""
    if "sae_lens" in sys.modules:
        importlib.import_module(REGISTERED)
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
