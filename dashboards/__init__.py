"""Pages and reports over the store, which they only read."""

PATHS = ("", "trade-offs", "history", "compare", "lineage", "sql")
"""Where the dashboard's pages are, in the order of its menu."""
LOGIN_FILE = "dashboard-token"
"""In the state directory: what other machines are asked for, where the dashboard listens for them."""
