SELECT v.id, v.patient, v.start_at, v.kind, v.status
FROM poller.visit AS v
WHERE v.practice = :practice AND v.start_at > CAST(:since AS timestamptz) AND v.start_at < CAST(:until AS timestamptz)
ORDER BY v.start_at, v.id
