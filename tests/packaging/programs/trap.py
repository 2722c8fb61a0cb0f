"""A file with the name of a module: it must not be imported, and leaves a file beside it if it is."""

import os

os.close(os.open(f"{__file__}.imported", os.O_CREAT | os.O_WRONLY))
raise ImportError(f"{__file__} was imported")
