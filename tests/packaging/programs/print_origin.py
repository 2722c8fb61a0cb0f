"""Prints where the package is that this interpreter imports."""

import slimline.flows

print(slimline.flows.__file__)
