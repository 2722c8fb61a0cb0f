"""The metrics: what each number of the table `measurements` is called, its unit, and what it means."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric. `more_is_better`: null where neither more nor less is. A new definition has a new `version`."""

    name: str
    unit: str
    doc: str
    more_is_better: bool | None
    version: int = 1


_ALL = (
    Metric("disk_mb", "MB", "Size of the files that inference needs, 10^6 bytes.", False),
    Metric("disk_gzip_mb", "MB", "Size of those files in a gzip archive, 10^6 bytes: what the study published.", False),
    Metric("memory_mb", "MB", "Peak resident memory of the process that measures, 10^6 bytes.", False),
    Metric("memory_over_base_mb", "MB", "Peak over the process before the engine is loaded, 10^6 bytes.", False),
    Metric(
        "memory_over_libraries_mb",
        "MB",
        "Peak over the process with the engine's libraries, before the model is loaded, 10^6 bytes: the model's part.",
        False,
    ),
    Metric(
        "samples_per_s", "1/s", "Samples per second until their lines end, batch 1: what the study published.", True
    ),
    Metric(
        "speed_ratio",
        "x",
        "How many times as fast as the baseline beside it, at equal work: as many tokens as the target line needs.",
        True,
        2,
    ),
    Metric("es", "%", "Edit similarity of the completed lines, %.", True),
    Metric("em", "%", "Exact match of the completed lines, %.", True),
    Metric("params_m", "M", "Parameters, millions.", False),
    Metric("params_nonzero_m", "M", "Parameters that are not zero, millions: what the study published.", False),
    Metric(
        "speed_p_value", "probability", "Student's test that speed_ratio differs from 1 only by chance, by Holm.", None
    ),
    Metric("line_speed_ratio", "x", "Samples per second relative to the baseline's: it rewards shorter lines.", True),
    Metric("tokens_per_sample", "tokens", "Tokens that it writes until a line ends.", None),
    Metric("first_token_p50_ms", "ms", "Median time to the first token, milliseconds.", False),
    Metric("latency_p50_ms", "ms", "Median latency of a sample, milliseconds.", False),
    Metric("latency_p95_ms", "ms", "95th percentile of the latency, milliseconds.", False),
    Metric("latency_p99_ms", "ms", "99th percentile of the latency, milliseconds.", False),
    Metric("prefill_tokens_per_s", "1/s", "Prompt tokens read per second.", True),
    Metric("decode_tokens_per_s", "1/s", "Tokens generated per second after the prompt.", True),
    Metric("es_drop", "points", "Edit similarity that its reference (docs/measuring.md) has and this has not.", False),
    Metric("em_drop", "points", "Exact matches that its reference has and this has not.", False),
    Metric("em_p_value", "probability", "McNemar's exact test that exact matches differ only by chance.", None),
    Metric("energy_j_per_sample", "J", "Joules per sample; null where the host does not report it.", False),
    Metric("int8_matmuls", "operators", "Matrix multiplications that are executed in int8.", None),
    Metric("matmuls", "operators", "Matrix multiplications of the model.", None),
    Metric("greedy_agreement", "share", "Share of random prompts continued as before the conversion.", True),
    Metric("line_agreement", "%", "Lines completed exactly as by the baseline, the teacher of distillation.", True),
    Metric("prefill_limit_share", "%", "Operations a second while prompts are read, of the host's peak, %.", None),
    Metric("decode_limit_share", "%", "Bytes a second that decoding has to read, of the host's peak, %.", None),
    Metric("parity_max_abs", "logits", "Largest difference of a logit from what it was converted from.", False),
    Metric("disk_half_mb", "MB", "disk_mb if a checkpoint's fp32 weights were stored in half precision.", False),
    Metric("train_tokens_per_s", "1/s", "Tokens per second of the last training that led to it.", None),
    Metric("train_loss", "nats", "Loss at the end of that training, nats per token.", False),
    Metric("train_tokens", "tokens", "Tokens of all trainings that led from the base to it.", None),
    Metric("dev_bits_per_byte", "bits", "Loss on held-out text after its last training, bits per byte.", False),
    Metric("dev_bits_per_byte_before", "bits", "That before the training.", False),
    Metric("dev_loss", "nats", "Loss on held-out text after that training, nats per token.", False),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Every metric by name. To add one, add a row here and the code that measures it."""
WIDE_METRICS: tuple[str, ...] = tuple(name for name in METRICS if name != "dev_loss")
"""Those that are columns of the view `result_table`, each with its interval."""
TABLE_METRICS: tuple[str, ...] = WIDE_METRICS[: WIDE_METRICS.index("parity_max_abs")]
"""Those of a result table as it is printed or exported."""
