-- What is stored of a patient belongs to a target that is new, or back, or reads more, so that its disappearance is noticed.
INSERT INTO poller.member (practice, target, resource_type, id)
SELECT :practice, c.target, s.resource_type, s.id
FROM unnest(CAST(:targets AS text[]), CAST(:patients AS text[]), CAST(:categories AS text[])) AS c (target, patient, category)
CROSS JOIN LATERAL (
  SELECT k.resource_type, k.id FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.partition_key = 'Patient/' || c.patient AND k.resource_type = ANY (CAST(:types AS text[]))
    AND NOT k.deleted AND (c.category IS NULL OR c.category = ANY (k.categories))) AS s
ORDER BY c.target, s.resource_type, s.id
ON CONFLICT DO NOTHING
