"""What is asked of a system: traces of requests, generators of traces, tasks with exact answers and their verifiers."""
