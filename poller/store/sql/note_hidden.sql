-- What noise rules hide of resources that have not changed otherwise; compare asks for it once a day and resource.
INSERT INTO poller.hidden AS h (practice, resource_type, id, version, paths, unfiltered, first_at, last_at)
SELECT :practice, r.resource_type, r.id, r.version, CAST(r.paths AS text[]), r.unfiltered, :now, :now
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:versions AS bigint[]), CAST(:paths AS text[]), CAST(:unfiltered AS bytea[]))
  AS r (resource_type, id, version, paths, unfiltered)
ORDER BY r.resource_type, r.id
ON CONFLICT (practice, resource_type, id) DO UPDATE
SET version = excluded.version, paths = excluded.paths, unfiltered = excluded.unfiltered, last_at = excluded.last_at,
    first_at = CASE WHEN h.version = excluded.version THEN h.first_at ELSE excluded.first_at END
