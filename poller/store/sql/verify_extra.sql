-- Notes what is stored of the types that the dump has, and is not in it.
INSERT INTO pg_temp.verified (resource_type, id, outcome)
SELECT s.resource_type, s.id, 'extra'
FROM poller.snapshot AS s
WHERE s.practice = :practice AND NOT s.deleted
  AND s.resource_type IN (SELECT DISTINCT v.resource_type FROM pg_temp.verified AS v)
  AND NOT EXISTS (SELECT FROM pg_temp.verified AS v WHERE v.resource_type = s.resource_type AND v.id = s.id)
