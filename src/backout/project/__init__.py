"""The only place that wires rooms together; the public Python API."""

from backout.project.advice import Advice
from backout.project.doors import Ask, Progress
from backout.project.project import Project
from backout.project.reading import CheckReport

__all__ = ["Advice", "Ask", "CheckReport", "Progress", "Project"]
