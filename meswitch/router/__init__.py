"""Which expert answers a query."""
