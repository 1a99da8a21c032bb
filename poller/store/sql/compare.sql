-- Hop 5. Which of the resources read differ from the snapshot, and which are new to this target; unchanged bodies never travel.
-- LATERAL with LIMIT: one look by the key for each resource, however many rows the planner believes the tables to have.
SELECT i.resource_type, i.id,
       s.digest IS DISTINCT FROM i.digest OR s.deleted OR s.rules_version <> :rules_version AS differs
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:digests AS bytea[])) AS i (resource_type, id, digest)
LEFT JOIN LATERAL (
  SELECT k.digest, k.deleted, k.rules_version FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = i.resource_type AND k.id = i.id
  LIMIT 1) AS s ON true
LEFT JOIN LATERAL (
  SELECT k.id FROM poller.member AS k
  WHERE :members AND k.practice = :practice AND k.target = :target AND k.resource_type = i.resource_type AND k.id = i.id
  LIMIT 1) AS m ON true
WHERE s.digest IS DISTINCT FROM i.digest
   OR s.deleted
   OR s.rules_version <> :rules_version
   OR (:members AND m.id IS NULL)
