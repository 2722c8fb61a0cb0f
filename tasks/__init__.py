"""What a step does. Plain Python; only steps.py, which makes Prefect tasks of it, imports Prefect."""

import logging

for _name in ("torchao", "torch.utils._pytree"):  # transformers' Trainer loads torchao, which warns of kernels of other devices
    logging.getLogger(_name).setLevel(logging.ERROR)
