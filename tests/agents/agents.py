"""All agents that the tests run, in the order of their report."""

from first_agents import FIRST
from newer_agents import NEWER

ALL = FIRST + NEWER
