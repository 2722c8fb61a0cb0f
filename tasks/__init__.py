"""What a step does. Plain Python; only steps.py, which makes Prefect tasks of it, imports Prefect."""

import logging

# The Trainer of transformers loads torchao, which warns of kernels of other devices.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
