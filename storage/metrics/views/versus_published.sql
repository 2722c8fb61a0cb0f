-- The newest run of each study, host and variant, beside every published row of the same variant; a variant that was
-- never published appears once, its published columns NULL. The published ones were measured on other hosts: see published_host.
-- The published disk size is that of a gzip archive and its parameters are the non-zero ones (see docs), so each
-- is beside both of our columns, and the ratios compare equal quantities.
WITH measured AS (
    SELECT DISTINCT run, study, host, variant FROM measurements
),
places AS (
    SELECT run, row_number() OVER (ORDER BY min(started) NULLS FIRST, run) AS place
    FROM (SELECT DISTINCT run FROM measured)
    LEFT JOIN runs USING (run)
    GROUP BY run
),
newest AS (
    SELECT study, host, variant, arg_max(run, place) AS run
    FROM measured
    INNER JOIN places USING (run)
    GROUP BY study, host, variant
),
results AS (
    SELECT * FROM {results_of_newest}
),
ours AS (
    SELECT results.*, results.disk_gzip_mb / base.disk_gzip_mb AS disk_ratio
    FROM results
    INNER JOIN newest USING (run, study, host, variant)
    LEFT JOIN results AS base
        ON base.run = results.run AND base.host = results.host AND base.variant = results.baseline
),
theirs AS (
    SELECT
        published.*,
        published.disk_mb / base.disk_mb AS disk_ratio,
        published.samples_per_s / base.samples_per_s AS line_speed_ratio,
        base.es - published.es AS es_drop,
        base.em - published.em AS em_drop
    FROM published
    LEFT JOIN published AS base
        ON base.host = published.host AND base.source = published.source AND base.variant = 'original'
)
SELECT
    ours.study,
    ours.run,
    ours.started,
    ours.host,
    ours.variant,
    ours.label,
    ours.random_weights,
    ours.error,
    ours.noise_floor,
    ours.tainted,
    theirs.host AS published_host,
    theirs.published_name,
    ours.disk_mb,
    theirs.disk_mb AS published_disk_mb,
    ours.disk_gzip_mb,
    theirs.disk_mb AS published_disk_gzip_mb,
    ours.memory_mb,
    theirs.memory_mb AS published_memory_mb,
    ours.samples_per_s,
    theirs.samples_per_s AS published_samples_per_s,
    ours.es,
    theirs.es AS published_es,
    ours.em,
    theirs.em AS published_em,
    ours.params_m,
    theirs.params_m AS published_params_m,
    ours.params_nonzero_m,
    theirs.params_m AS published_params_nonzero_m,
    ours.disk_ratio,
    theirs.disk_ratio AS published_disk_ratio,
    ours.line_speed_ratio,
    theirs.line_speed_ratio AS published_line_speed_ratio,
    ours.es_drop,
    theirs.es_drop AS published_es_drop,
    ours.em_drop,
    theirs.em_drop AS published_em_drop
FROM ours
LEFT JOIN theirs USING (variant)
