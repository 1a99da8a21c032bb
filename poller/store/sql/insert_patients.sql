INSERT INTO poller.patient (practice, id, live, first_seen_at)
SELECT :practice, i.id, :live, :now
FROM unnest(CAST(:ids AS text[])) AS i (id)
ORDER BY i.id
ON CONFLICT (practice, id) DO UPDATE SET gone_at = NULL WHERE patient.gone_at IS NOT NULL
