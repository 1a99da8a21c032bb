-- Which of these patients something must be written for, in the order given: they are unknown, this source names them for the first time or
-- for the first time in a day, or it proves that one who was gone is there; none who was forgotten. Mostly none: then a batch takes no lock for its patients.
SELECT i.id, i.source
FROM unnest(CAST(:ids AS text[]), CAST(:sources AS text[])) WITH ORDINALITY AS i (id, source, place)
LEFT JOIN LATERAL (
  SELECT k.gone_at FROM poller.patient AS k WHERE k.practice = :practice AND k.id = i.id LIMIT 1) AS p ON true
LEFT JOIN LATERAL (
  SELECT k.last_seen_at FROM poller.patient_source AS k
  WHERE k.practice = :practice AND k.id = i.id AND k.source = i.source LIMIT 1) AS s ON true
WHERE (s.last_seen_at IS NULL
   OR s.last_seen_at < CAST(:now AS timestamptz) - interval '1 day'
   OR p.gone_at IS NOT NULL AND i.source = ANY (CAST(:proving AS text[])))
  AND NOT EXISTS (
    SELECT FROM poller.forgotten AS f WHERE f.practice = :practice AND f.digest = sha256(f.salt || convert_to(i.id, 'UTF8')))
ORDER BY i.place
