"""Where work goes: a pure library. See README.md for its words, its indexes and its measured figures.

Import from the modules: ``engine`` and ``request`` for workloads, ``routing`` and ``formulas`` for inference requests,
``explain`` for the answer to "why not". Nothing is re-exported here, because ``explain`` is read by processes that
never place anything and need not load numpy for it.
"""
