-- Takes events out that have gone to the queues, or that the filter does not want any more.
DELETE FROM poller.parked AS p
USING unnest(CAST(:epochs AS bigint[]), CAST(:sequences AS bigint[]), CAST(:ordinals AS bigint[])) AS r (epoch, sequence, ordinal)
WHERE p.practice = :practice AND p.sink = :sink AND (p.epoch, p.sequence, p.ordinal) = (r.epoch, r.sequence, r.ordinal)
RETURNING p.ordinal
