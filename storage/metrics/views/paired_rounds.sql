-- One row per run, host, round and variant that measured something: the mean over its processes (the baseline has two a
-- round), its speed relative to the baseline's of the same round, and baseline_self_ratio: the baseline's second process
-- relative to its first in that round, 1 where nothing disturbed either. The same by each sample's fastest pass, which is
-- what a busy machine disturbs least: undisturbed_per_s, undisturbed_ratio and undisturbed_self_ratio.
WITH passes AS (
    SELECT
        run,
        host,
        round,
        variant,
        min(started) AS started,
        avg(samples_per_s) AS samples_per_s,
        avg(undisturbed_per_s) AS undisturbed_per_s,
        avg(memory_over_base_mb) AS memory_over_base_mb,
        any_value(samples_per_s) FILTER (replicate = 1) / any_value(samples_per_s) FILTER (replicate = 0) AS self_ratio,
        any_value(undisturbed_per_s) FILTER (replicate = 1)
        / any_value(undisturbed_per_s) FILTER (replicate = 0) AS undisturbed_self_ratio,
        any_value(samples) AS samples,
        any_value(prompt_tokens) AS prompt_tokens
    FROM rounds
    WHERE samples_per_s > 0
    GROUP BY run, host, round, variant
),
baselines AS (
    SELECT run, any_value(baseline) AS variant FROM runs GROUP BY run
)
SELECT
    passes.run,
    passes.host,
    passes.round,
    passes.variant,
    passes.started,
    passes.samples_per_s,
    passes.samples_per_s / base.samples_per_s AS speed_ratio,
    base.self_ratio AS baseline_self_ratio,
    passes.undisturbed_per_s,
    passes.undisturbed_per_s / base.undisturbed_per_s AS undisturbed_ratio,
    base.undisturbed_self_ratio,
    passes.memory_over_base_mb,
    passes.samples,
    passes.prompt_tokens
FROM passes
LEFT JOIN baselines USING (run)
LEFT JOIN passes AS base
    ON base.run = passes.run AND base.host = passes.host AND base.round = passes.round AND base.variant = baselines.variant
