-- The visits that Encounters tell of; one that has moved or whose status has changed is told anew.
INSERT INTO poller.visit (practice, id, patient, start_at, kind, status)
SELECT :practice, v.id, v.patient, v.start_at, v.kind, v.status
FROM unnest(CAST(:ids AS text[]), CAST(:patients AS text[]), CAST(:starts AS timestamptz[]), CAST(:kinds AS text[]),
            CAST(:statuses AS text[])) AS v (id, patient, start_at, kind, status)
ORDER BY v.id
ON CONFLICT (practice, id) DO UPDATE
SET patient = EXCLUDED.patient, start_at = EXCLUDED.start_at, kind = EXCLUDED.kind, status = EXCLUDED.status
