-- Hop 5. Which of the resources read differ from the snapshot, and which are new to this target; unchanged bodies never travel.
SELECT i.resource_type, i.id,
       s.digest IS DISTINCT FROM i.digest OR s.deleted OR s.rules_version <> :rules_version AS differs
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:digests AS bytea[])) AS i (resource_type, id, digest)
LEFT JOIN poller.snapshot AS s
  ON s.practice = :practice AND s.resource_type = i.resource_type AND s.id = i.id
LEFT JOIN poller.member AS m
  ON m.practice = :practice AND m.target = :target AND m.resource_type = i.resource_type AND m.id = i.id
WHERE s.digest IS DISTINCT FROM i.digest
   OR s.deleted
   OR s.rules_version <> :rules_version
   OR (:members AND m.id IS NULL)
