"""What a step does. Plain Python, except steps.py, which is its door to Prefect."""
