-- Of which of these types and patients something has read all before: what a baseline creates of them has happened since.
SELECT o.resource_type, o.patient
FROM unnest(CAST(:types AS text[]), CAST(:patients AS text[])) AS o (resource_type, patient)
WHERE poller.was_read_whole(:practice, o.resource_type, NULL, o.patient)
