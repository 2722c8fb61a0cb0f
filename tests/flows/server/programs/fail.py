"""A process that ends at once, with an error."""

print("the last line")
raise SystemExit(3)
