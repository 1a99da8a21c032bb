-- What is stored of a block of an outside dump. Bodies only of what was digested under other rules than these.
SELECT i.resource_type, i.id, s.digest, s.rules_version, s.deleted, s.codec, s.body
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:rules AS integer[])) AS i (resource_type, id, rules)
JOIN LATERAL (
  SELECT k.digest, k.rules_version, k.deleted,
         CASE WHEN k.rules_version IS DISTINCT FROM i.rules THEN k.codec END AS codec,
         CASE WHEN k.rules_version IS DISTINCT FROM i.rules THEN k.body END AS body
  FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = i.resource_type AND k.id = i.id
  LIMIT 1) AS s ON true
