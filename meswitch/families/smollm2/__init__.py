"""The smollm2 family: SmolLM2-135M-Instruct as base, and full fine-tunes of it on public data, trained where needed."""
