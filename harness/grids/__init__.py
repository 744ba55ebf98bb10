"""Grids of what is quantised besides the linears' deltas, and of how budgets are spent, on a family's experts."""
