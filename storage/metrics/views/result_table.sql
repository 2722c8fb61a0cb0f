-- One row per run, host and variant: every metric beside its 95 % interval.
-- A variant's error is the first reason why one of its numbers is missing; a host that cannot measure energy is not a
-- failure.
SELECT
    run,
    study,
    host,
    variant,
    first_measured,
    first_written,
    label,
    random_weights,
    artifact,
    error,
    {metrics},
    started,
    baseline,
    control,
    noise_floor,
    tainted,
    samples,
    rounds
FROM {figures}
