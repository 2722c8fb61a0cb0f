-- One row per run, host and variant: every metric beside its 95 % interval.
-- A variant's error is the first reason why one of its numbers is missing; energy that a host does not report is not an error.
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
        {metrics}
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
