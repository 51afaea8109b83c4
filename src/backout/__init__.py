"""Production database changes that can be taken back.

`from backout import Project` is the library; the command line is a thin layer over it.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backout.project import Project

__all__ = ["Project", "__version__"]

__version__ = version("backout")


def __getattr__(name: str) -> Any:
    """Import the library when it is asked for, so that `backout --help` does not wait for it."""
    if name == "Project":
        from backout.project import Project

        return Project
    raise AttributeError(name)
