-- Hop 7. Lock what is about to change, in key order so that two writers never wait for each other in a ring, and read it again under the lock.
-- The keys are given in order. LATERAL and a lock inside: one look by the key for each, however few rows the planner believes a practice to
-- have; a new one is unknown to the statistics, and each batch of its first load would read all that came before.
SELECT s.*
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS i (resource_type, id)
CROSS JOIN LATERAL (
  SELECT k.resource_type, k.id, k.version, k.deleted, k.digest, CAST(k.elements AS text) AS elements, k.rules_version, k.read_ended,
         k.entered_in_error, k.replaced_by, k.partition_key
  FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = i.resource_type AND k.id = i.id
  FOR UPDATE) AS s
