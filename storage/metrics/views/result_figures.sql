-- One row per run, host and variant, with a map from each metric's name to its value and the ends lo and hi of its 95 %
-- interval. A variant's error is the first reason why one of its numbers is missing; a host that cannot measure energy is
-- not a failure. The first definition of speed_ratio compared samples per second until lines end: what is now
-- line_speed_ratio.
WITH named AS (
    SELECT
        * REPLACE (
            CASE WHEN metric = 'speed_ratio' AND metric_version = 1 THEN 'line_speed_ratio' ELSE metric END AS metric
        )
    FROM {measurements}
),
latest AS (
    SELECT * FROM named
    QUALIFY row_number() OVER (PARTITION BY run, host, variant, metric ORDER BY time DESC, written DESC) = 1
),
variants AS (
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
        map_from_entries(list({'k': metric, 'v': {'value': value, 'lo': lo, 'hi': hi}})) AS figures
    FROM latest
    GROUP BY run, host, variant
),
sessions AS (
    SELECT run, host, noise_floor, tainted, samples, rounds FROM runs
    QUALIFY row_number() OVER (PARTITION BY run, host ORDER BY finished DESC NULLS LAST) = 1
),
whole_runs AS (
    SELECT run, min(started) AS started, any_value(baseline) AS baseline, any_value(control) AS control FROM runs GROUP BY run
)
SELECT variants.*, started, baseline, control, noise_floor, tainted, samples, rounds
FROM variants
LEFT JOIN whole_runs USING (run)
LEFT JOIN sessions USING (run, host)
