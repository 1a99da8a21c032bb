INSERT INTO poller.member (practice, target, resource_type, id)
SELECT :practice, :target, i.resource_type, i.id
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS i (resource_type, id)
ORDER BY i.resource_type, i.id
ON CONFLICT DO NOTHING
