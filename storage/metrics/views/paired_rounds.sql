-- One row per run, host, round and variant that measured something: the mean over its processes (the baseline has two a
-- round), its speed relative to the baseline's, and baseline_self_ratio: the baseline's second process relative to its
-- first, 1 where nothing disturbed either. Both are at equal work, from processes that took turns; in runs of before that
-- was measured, they are of samples per second until lines end. undisturbed_per_s is by each sample's fastest pass, which
-- is what a busy machine disturbs least; undisturbed_ratio and undisturbed_self_ratio are of those runs only.
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
        avg(pair_ratio) AS pair_ratio,
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
    CASE
        WHEN passes.variant = baselines.variant THEN 1
        WHEN base.pair_ratio IS NULL THEN passes.samples_per_s / base.samples_per_s
        ELSE passes.pair_ratio
    END AS speed_ratio,
    coalesce(base.pair_ratio, base.self_ratio) AS baseline_self_ratio,
    passes.undisturbed_per_s,
    CASE WHEN base.pair_ratio IS NULL THEN passes.undisturbed_per_s / base.undisturbed_per_s END AS undisturbed_ratio,
    CASE WHEN base.pair_ratio IS NULL THEN base.undisturbed_self_ratio END AS undisturbed_self_ratio,
    passes.memory_over_base_mb,
    passes.samples,
    passes.prompt_tokens
FROM passes
LEFT JOIN baselines USING (run)
LEFT JOIN passes AS base
    ON base.run = passes.run AND base.host = passes.host AND base.round = passes.round AND base.variant = baselines.variant
