"""What compressing an expert costs: seconds and memory, on synthetic experts of a published model's shape."""
