"""Fewer numbers: group lasso as published, structures and vocabulary taken out, and what each costs on this host."""
