-- Hop 7. Lock what is about to change, in key order so that two writers never wait for each other in a ring, and read it again under the lock.
SELECT s.resource_type, s.id, s.version, s.deleted, s.digest, CAST(s.elements AS text) AS elements, s.rules_version, s.read_ended,
       s.entered_in_error, s.replaced_by, s.partition_key
FROM poller.snapshot AS s
JOIN unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS i (resource_type, id)
  ON s.resource_type = i.resource_type AND s.id = i.id
WHERE s.practice = :practice
ORDER BY s.resource_type, s.id
FOR UPDATE OF s
