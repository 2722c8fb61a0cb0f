"""Training: pre-training, fine-tuning and distillation of GPT-2 models."""

import logging

for _name in ("torchao", "torch.utils._pytree"):  # the Trainer loads torchao, which warns of kernels of other devices
    logging.getLogger(_name).setLevel(logging.ERROR)
