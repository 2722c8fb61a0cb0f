"""Model directories: configurations, weights, loading."""
