"""All agents that the tests run, in the order of their report."""

from first_agents import FIRST
from newer_agents import NEWER
from tool_agents import TOOL_AGENTS
from verb_agents import VERB_AGENTS

ALL = FIRST + NEWER + TOOL_AGENTS + VERB_AGENTS
