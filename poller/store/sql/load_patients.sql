-- Patients whose resources are read; one who is gone is read on until nothing of theirs is left to disappear.
SELECT p.id, p.ordinal, p.gone_at IS NOT NULL AS gone,
       EXISTS (
         SELECT FROM poller.patient_source AS n
         WHERE n.practice = p.practice AND n.id = p.id AND n.source = 'names') AS enumerated
FROM poller.patient AS p
WHERE p.practice = :practice
  AND (p.gone_at IS NULL OR EXISTS (
    SELECT FROM poller.snapshot AS s
    WHERE s.practice = p.practice AND s.partition_key = 'Patient/' || p.id AND s.resource_type <> 'Patient' AND NOT s.deleted))
ORDER BY p.ordinal
