"""The fixtures of these tests; agent_host.py has them, and what they give."""

from agent_host import agent, make_agent     # noqa: F401
