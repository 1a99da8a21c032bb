-- What a bulk export shows, and when: too many to be held until its end.
INSERT INTO poller.member AS m (practice, target, resource_type, id, seen_at)
SELECT :practice, :target, i.resource_type, i.id, :began
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS i (resource_type, id)
ORDER BY i.resource_type, i.id
ON CONFLICT (practice, target, resource_type, id) DO UPDATE SET seen_at = greatest(m.seen_at, EXCLUDED.seen_at)
