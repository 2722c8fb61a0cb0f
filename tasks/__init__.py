"""What a step does. Plain Python; only steps.py, which makes Prefect tasks of it, imports Prefect."""
