"""Production database changes that can be taken back.

`from backout import Project` is the library; the command line is a thin layer over it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backout.project import Project

    __version__: str

__all__ = ["Project", "__version__"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that `backout --help` does not wait for it."""
    if name == "Project":
        from backout.project import Project

        return Project
    if name == "__version__":
        from importlib.metadata import version

        return version("backout")
    raise AttributeError(name)
