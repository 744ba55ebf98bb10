"""The pocket family: a two-million-parameter Llama on bytes, its training recipe and its weights."""
