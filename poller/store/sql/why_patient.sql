-- Whether somebody is known to be a patient, and by whose word: a row for each source that has named them.
SELECT p.first_seen_at, p.gone_at, p.ordinal, s.source, s.first_seen_at AS named_at, s.last_seen_at AS last_named_at
FROM poller.patient AS p
LEFT JOIN poller.patient_source AS s ON s.practice = p.practice AND s.id = p.id
WHERE p.practice = :practice AND p.id = :patient
ORDER BY s.first_seen_at, s.source
