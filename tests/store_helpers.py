"""A store in memory that fails when a test says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

__all__ = ["Store", "new_store"]


class Store(MemoryFileSystem):
    """A store in memory of its own; what `fail` is told of each put, get and move may raise."""

    protocol: ClassVar[Any] = "try"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fail: ClassVar[Callable[[str, str], None]] = staticmethod(lambda what, path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("try://"))

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        content = Path(lpath).read_bytes()
        self.pipe_file(rpath, content[: len(content) // 2])
        type(self).fail("put", rpath)
        self.pipe_file(rpath, content)

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        type(self).fail("get", rpath)
        super().get_file(rpath, lpath, **options)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        super().cp_file(path1, path2, **options)
        type(self).fail("moved", path2)


def new_store(kind: type[Store]) -> None:
    """Makes `try://` an empty store of this kind, which does not fail."""
    fsspec.register_implementation("try", kind, clobber=True)
    kind.store.clear()
    kind.pseudo_dirs[:] = [""]
    kind.fail = staticmethod(lambda what, path: None)
