"""Steps of Intel's own library, intel-extension-for-transformers, which runs in a Python environment of its own."""
