-- One row per time, host, variant and metric, with the change against the previous run of the same study, host, variant,
-- metric and definition of the metric. Numbers that could not be measured are left out.
WITH latest AS (
    SELECT * FROM measurements
    WHERE value IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY run, host, variant, metric, metric_version ORDER BY time DESC) = 1
),
compared AS (
    SELECT
        time,
        run,
        study,
        host,
        variant,
        metric,
        metric_version,
        value,
        lo,
        hi,
        unit,
        n,
        artifact,
        lag(run) OVER previous AS previous_run,
        lag(value) OVER previous AS previous_value
    FROM latest
    WINDOW previous AS (PARTITION BY study, host, variant, metric, metric_version ORDER BY time, run)
)
SELECT
    compared.*,
    value - previous_value AS change,
    value / nullif(previous_value, 0) - 1 AS relative_change,
    tainted
FROM compared
LEFT JOIN (SELECT run, host, bool_or(tainted) AS tainted FROM runs GROUP BY run, host) USING (run, host)
