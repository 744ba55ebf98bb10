"""How many experts a GPU really holds: what was planned beside what the driver counts."""

from harness.residency.options import MemoryOptions, parse_experts

__all__ = ["MemoryOptions", "parse_experts"]
