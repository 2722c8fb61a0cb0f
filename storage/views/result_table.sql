-- One row per run, host and variant: every metric beside its 95 % interval.
-- A variant's error is the first reason why one of its numbers is missing; a host that cannot tell energy is no failure.
WITH numbered AS (
    SELECT *, row_number() OVER () AS written FROM measurements
),
latest AS (
    SELECT * FROM numbered
    QUALIFY row_number() OVER (PARTITION BY run, host, variant, metric ORDER BY time DESC, written DESC) = 1
),
wide AS (
    SELECT
        run,
        any_value(study) AS study,
        host,
        variant,
        min(time) AS first_measured,
        min(written) AS first_written,
        arg_max(label, time) AS label,
        coalesce(bool_or(random_weights), false) AS random_weights,
        arg_max(artifact, time) AS artifact,
        arg_min(error, time) FILTER (value IS NULL AND metric <> 'energy_j_per_sample') AS error,
        any_value(value) FILTER (metric = 'disk_mb') AS disk_mb,
        any_value(lo) FILTER (metric = 'disk_mb') AS disk_mb_lo,
        any_value(hi) FILTER (metric = 'disk_mb') AS disk_mb_hi,
        any_value(value) FILTER (metric = 'disk_gzip_mb') AS disk_gzip_mb,
        any_value(lo) FILTER (metric = 'disk_gzip_mb') AS disk_gzip_mb_lo,
        any_value(hi) FILTER (metric = 'disk_gzip_mb') AS disk_gzip_mb_hi,
        any_value(value) FILTER (metric = 'memory_mb') AS memory_mb,
        any_value(lo) FILTER (metric = 'memory_mb') AS memory_mb_lo,
        any_value(hi) FILTER (metric = 'memory_mb') AS memory_mb_hi,
        any_value(value) FILTER (metric = 'memory_over_base_mb') AS memory_over_base_mb,
        any_value(lo) FILTER (metric = 'memory_over_base_mb') AS memory_over_base_mb_lo,
        any_value(hi) FILTER (metric = 'memory_over_base_mb') AS memory_over_base_mb_hi,
        any_value(value) FILTER (metric = 'samples_per_s') AS samples_per_s,
        any_value(lo) FILTER (metric = 'samples_per_s') AS samples_per_s_lo,
        any_value(hi) FILTER (metric = 'samples_per_s') AS samples_per_s_hi,
        any_value(value) FILTER (metric = 'speed_ratio') AS speed_ratio,
        any_value(lo) FILTER (metric = 'speed_ratio') AS speed_ratio_lo,
        any_value(hi) FILTER (metric = 'speed_ratio') AS speed_ratio_hi,
        any_value(value) FILTER (metric = 'latency_p50_ms') AS latency_p50_ms,
        any_value(lo) FILTER (metric = 'latency_p50_ms') AS latency_p50_ms_lo,
        any_value(hi) FILTER (metric = 'latency_p50_ms') AS latency_p50_ms_hi,
        any_value(value) FILTER (metric = 'latency_p95_ms') AS latency_p95_ms,
        any_value(lo) FILTER (metric = 'latency_p95_ms') AS latency_p95_ms_lo,
        any_value(hi) FILTER (metric = 'latency_p95_ms') AS latency_p95_ms_hi,
        any_value(value) FILTER (metric = 'latency_p99_ms') AS latency_p99_ms,
        any_value(lo) FILTER (metric = 'latency_p99_ms') AS latency_p99_ms_lo,
        any_value(hi) FILTER (metric = 'latency_p99_ms') AS latency_p99_ms_hi,
        any_value(value) FILTER (metric = 'prefill_tokens_per_s') AS prefill_tokens_per_s,
        any_value(lo) FILTER (metric = 'prefill_tokens_per_s') AS prefill_tokens_per_s_lo,
        any_value(hi) FILTER (metric = 'prefill_tokens_per_s') AS prefill_tokens_per_s_hi,
        any_value(value) FILTER (metric = 'decode_tokens_per_s') AS decode_tokens_per_s,
        any_value(lo) FILTER (metric = 'decode_tokens_per_s') AS decode_tokens_per_s_lo,
        any_value(hi) FILTER (metric = 'decode_tokens_per_s') AS decode_tokens_per_s_hi,
        any_value(value) FILTER (metric = 'es') AS es,
        any_value(lo) FILTER (metric = 'es') AS es_lo,
        any_value(hi) FILTER (metric = 'es') AS es_hi,
        any_value(value) FILTER (metric = 'em') AS em,
        any_value(lo) FILTER (metric = 'em') AS em_lo,
        any_value(hi) FILTER (metric = 'em') AS em_hi,
        any_value(value) FILTER (metric = 'es_drop') AS es_drop,
        any_value(lo) FILTER (metric = 'es_drop') AS es_drop_lo,
        any_value(hi) FILTER (metric = 'es_drop') AS es_drop_hi,
        any_value(value) FILTER (metric = 'em_drop') AS em_drop,
        any_value(lo) FILTER (metric = 'em_drop') AS em_drop_lo,
        any_value(hi) FILTER (metric = 'em_drop') AS em_drop_hi,
        any_value(value) FILTER (metric = 'em_p_value') AS em_p_value,
        any_value(lo) FILTER (metric = 'em_p_value') AS em_p_value_lo,
        any_value(hi) FILTER (metric = 'em_p_value') AS em_p_value_hi,
        any_value(value) FILTER (metric = 'params_m') AS params_m,
        any_value(lo) FILTER (metric = 'params_m') AS params_m_lo,
        any_value(hi) FILTER (metric = 'params_m') AS params_m_hi,
        any_value(value) FILTER (metric = 'params_nonzero_m') AS params_nonzero_m,
        any_value(lo) FILTER (metric = 'params_nonzero_m') AS params_nonzero_m_lo,
        any_value(hi) FILTER (metric = 'params_nonzero_m') AS params_nonzero_m_hi,
        any_value(value) FILTER (metric = 'energy_j_per_sample') AS energy_j_per_sample,
        any_value(lo) FILTER (metric = 'energy_j_per_sample') AS energy_j_per_sample_lo,
        any_value(hi) FILTER (metric = 'energy_j_per_sample') AS energy_j_per_sample_hi,
        any_value(value) FILTER (metric = 'parity_max_abs') AS parity_max_abs,
        any_value(lo) FILTER (metric = 'parity_max_abs') AS parity_max_abs_lo,
        any_value(hi) FILTER (metric = 'parity_max_abs') AS parity_max_abs_hi,
        any_value(value) FILTER (metric = 'int8_matmuls') AS int8_matmuls,
        any_value(lo) FILTER (metric = 'int8_matmuls') AS int8_matmuls_lo,
        any_value(hi) FILTER (metric = 'int8_matmuls') AS int8_matmuls_hi,
        any_value(value) FILTER (metric = 'matmuls') AS matmuls,
        any_value(lo) FILTER (metric = 'matmuls') AS matmuls_lo,
        any_value(hi) FILTER (metric = 'matmuls') AS matmuls_hi,
        any_value(value) FILTER (metric = 'train_tokens_per_s') AS train_tokens_per_s,
        any_value(lo) FILTER (metric = 'train_tokens_per_s') AS train_tokens_per_s_lo,
        any_value(hi) FILTER (metric = 'train_tokens_per_s') AS train_tokens_per_s_hi,
        any_value(value) FILTER (metric = 'train_loss') AS train_loss,
        any_value(lo) FILTER (metric = 'train_loss') AS train_loss_lo,
        any_value(hi) FILTER (metric = 'train_loss') AS train_loss_hi
    FROM latest
    GROUP BY run, host, variant
),
sessions AS (
    SELECT run, host, noise_floor, tainted, samples, rounds FROM runs
    QUALIFY row_number() OVER (PARTITION BY run, host ORDER BY finished DESC NULLS LAST) = 1
),
whole_runs AS (
    SELECT run, min(started) AS started, any_value(baseline) AS baseline FROM runs GROUP BY run
)
SELECT wide.*, started, baseline, noise_floor, tainted, samples, rounds
FROM wide
LEFT JOIN whole_runs USING (run)
LEFT JOIN sessions USING (run, host)
