"""Training: pre-training, fine-tuning and distillation of GPT-2 models."""
