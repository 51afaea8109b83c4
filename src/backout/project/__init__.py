"""The only place that wires rooms together; the public Python API."""

from backout.project.advice import Advice
from backout.project.project import Ask, CheckReport, Progress, Project

__all__ = ["Advice", "Ask", "CheckReport", "Progress", "Project"]
