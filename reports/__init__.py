"""Reports of runs: what memory, what latency, what switch cost, how many answers right, with the baseline beside."""
