"""GPT-2 models and tokenizers: bases, pre-training, fine-tuning."""
