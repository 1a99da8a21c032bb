-- What another strategy has found belongs to the new patient target too, so that its disappearance is noticed.
INSERT INTO poller.member (practice, target, resource_type, id)
SELECT t.practice, t.target, s.resource_type, s.id
FROM poller.target AS t
JOIN poller.snapshot AS s
  ON s.practice = t.practice AND s.partition_key = 'Patient/' || t.patient AND s.resource_type = t.resource_type
WHERE t.practice = :practice AND t.resource_type = :resource_type AND t.kind = 'patient' AND t.last_began IS NULL
  AND NOT s.deleted AND (t.category IS NULL OR t.category = ANY (s.categories))
ON CONFLICT DO NOTHING
