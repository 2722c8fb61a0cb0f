"""Tables, charts and reports of what was measured, as text or files."""
