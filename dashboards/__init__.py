"""Pages and reports over the store, which they only read."""

PATHS = ("", "trade-offs", "history", "compare", "lineage", "sql")
"""Where the dashboard's pages are, in the order of its menu."""
