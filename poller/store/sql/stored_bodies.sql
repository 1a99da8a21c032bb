-- Bodies as the snapshot has them, to see what noise rules hide, or to digest them again under other rules.
SELECT s.resource_type, s.id, s.version, s.codec, s.body
FROM poller.snapshot AS s
JOIN unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS i (resource_type, id)
  ON s.resource_type = i.resource_type AND s.id = i.id
WHERE s.practice = :practice AND s.body IS NOT NULL
