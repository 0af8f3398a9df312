"""The calls as a bill in the FinOps Open Cost and Usage Specification (FOCUS).

``column`` declares what the specification asks for and what stands in each column, ``charge`` makes rows of
the view ``calls``, ``file`` writes them as CSV or Parquet. ``docs/focus.md`` explains them.
"""
