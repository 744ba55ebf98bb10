"""Figures of a report: pure functions from tables to matplotlib figures, and their way into a page."""
