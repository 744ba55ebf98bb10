"""Which codec each linear gets, under one budget of bytes for the whole expert."""

from meswitch.allocation.budget import parse_budget
from meswitch.allocation.evolution import EvolutionConfig, evolve
from meswitch.allocation.knapsack import allocate, least_error
from meswitch.allocation.measured import OWN, measure, measured_errors
from meswitch.allocation.search import Searched, measure_linears, search_choices, search_linears
from meswitch.allocation.sensitivity import (
    Allocation,
    Choice,
    alike_within,
    allocate_linears,
    assign_linears,
    choices_of,
)

__all__ = [
    "OWN",
    "Allocation",
    "Choice",
    "EvolutionConfig",
    "Searched",
    "alike_within",
    "allocate",
    "allocate_linears",
    "assign_linears",
    "choices_of",
    "evolve",
    "least_error",
    "measure",
    "measure_linears",
    "measured_errors",
    "parse_budget",
    "search_choices",
    "search_linears",
]
