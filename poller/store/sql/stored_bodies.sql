-- Bodies as the snapshot has them, to see what noise rules hide, or to digest them again under other rules. LATERAL with LIMIT as in compare.
SELECT i.resource_type, i.id, s.version, s.codec, s.body
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS i (resource_type, id)
CROSS JOIN LATERAL (
  SELECT k.version, k.codec, k.body FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = i.resource_type AND k.id = i.id
  LIMIT 1) AS s
WHERE s.body IS NOT NULL
