-- One row per series (study, class of hosts, variant, metric and its definition) that has ever regressed: its newest
-- confirmed regression, and whether it is still open. It is recovered once a later confirmed improvement has undone at
-- least half of it.
WITH judged AS (
    SELECT * FROM verdicts
    QUALIFY row_number() OVER (PARTITION BY run, study, host, variant, metric, metric_version ORDER BY time DESC) = 1
),
regressed AS (
    SELECT * FROM judged
    WHERE verdict = 'regression'
    QUALIFY row_number() OVER (
        PARTITION BY study, coalesce(host_class, host), variant, metric, metric_version ORDER BY time DESC, run DESC
    ) = 1
),
recovered AS (
    SELECT
        bad.run,
        bad.host,
        bad.variant,
        bad.metric,
        bad.metric_version,
        arg_min(good.run, good.time) AS recovered_run,
        min(good.time) AS recovered_time
    FROM regressed AS bad
    INNER JOIN judged AS good
        ON
            good.study = bad.study
            AND coalesce(good.host_class, good.host) = coalesce(bad.host_class, bad.host)
            AND good.variant = bad.variant
            AND good.metric = bad.metric
            AND good.metric_version IS NOT DISTINCT FROM bad.metric_version
    WHERE
        good.verdict = 'improvement'
        AND good.time > bad.time
        AND (good.value - bad.value) / nullif(bad.reference - bad.value, 0) >= 0.5
    GROUP BY ALL
)
SELECT regressed.*, CASE WHEN recovered_run IS NULL THEN 'open' ELSE 'recovered' END AS state, recovered_run, recovered_time
FROM regressed
LEFT JOIN recovered
    ON
        recovered.run = regressed.run
        AND recovered.host = regressed.host
        AND recovered.variant = regressed.variant
        AND recovered.metric = regressed.metric
        AND recovered.metric_version IS NOT DISTINCT FROM regressed.metric_version
ORDER BY state, time DESC
