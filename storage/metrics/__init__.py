"""The metrics store: Parquet files that any process appends, read as SQL tables and views."""
