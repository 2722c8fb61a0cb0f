"""Checkpoints of GPT-2 models: checks, loading, base models."""
