"""Many full fine-tunes of one base LLM, served from one copy of the base and each expert's compressed delta.

The command line is `meswitch`; in Python the public parts are imported from their own modules, so that reading a
manifest does not cost an import of torch:

    meswitch.compress.compress_expert   a fine-tune becomes a delta directory
    meswitch.merge.merge                and a delta directory a plain checkpoint again
    meswitch.engine.build_engine        an engine that serves a base and its experts
    meswitch.service.EngineProcess      the same in a process of its own
    meswitch.errors                     everything that can go wrong
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
