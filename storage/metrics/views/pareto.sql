-- The rows of result_table, each with on_frontier: whether no other variant of its run and host is at least as good in
-- edit similarity, speed (at equal work, or where that was not measured, until lines end), size on disk and memory, and
-- better in one of them. Equal ones are on it together. Without an edit similarity (that of random weights means nothing) a
-- variant counts as the worst in it, so among several such variants the other three decide. What failed, or was not
-- measured in one of the others, is not on the frontier.
WITH points AS (
    SELECT
        run,
        host,
        variant,
        CASE WHEN random_weights OR es IS NULL THEN '-infinity'::DOUBLE ELSE es END AS quality,
        coalesce(speed_ratio, line_speed_ratio) AS speed,
        disk_mb,
        memory_over_base_mb
    FROM result_table
    WHERE
        error IS NULL
        AND coalesce(speed_ratio, line_speed_ratio) IS NOT NULL
        AND disk_mb IS NOT NULL
        AND memory_over_base_mb IS NOT NULL
),
dominated AS (
    SELECT DISTINCT run, host, ours.variant
    FROM points AS ours
    INNER JOIN points AS other USING (run, host)
    WHERE
        other.quality >= ours.quality
        AND other.speed >= ours.speed
        AND other.disk_mb <= ours.disk_mb
        AND other.memory_over_base_mb <= ours.memory_over_base_mb
        AND (
            other.quality > ours.quality
            OR other.speed > ours.speed
            OR other.disk_mb < ours.disk_mb
            OR other.memory_over_base_mb < ours.memory_over_base_mb
        )
)
SELECT result_table.*, points.variant IS NOT NULL AND dominated.variant IS NULL AS on_frontier
FROM result_table
LEFT JOIN points USING (run, host, variant)
LEFT JOIN dominated USING (run, host, variant)
