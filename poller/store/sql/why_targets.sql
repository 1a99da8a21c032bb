-- The searches that show what a patient has (:patients: the patient, and the groups they are read in), or, by their keys, what all have; and
-- whether each has shown the resource that is asked about, where what it shows is kept.
SELECT t.resource_type, t.kind, t.category, t.types, t.known, t.last_began, t.complete_began, t.registered_at, t.failures, t.failure,
       EXISTS (
         SELECT FROM poller.member AS m
         WHERE m.practice = t.practice AND m.target = t.target AND m.resource_type = :resource_type AND m.id = :id) AS has_shown
FROM (
  SELECT * FROM poller.target AS a WHERE a.practice = :practice AND a.patient = ANY (CAST(:patients AS text[]))
  UNION ALL
  SELECT * FROM poller.target AS b WHERE b.practice = :practice AND b.target = ANY (CAST(:targets AS text[]))) AS t
WHERE t.retired_at IS NULL AND t.kind NOT IN ('bulk', 'days')
ORDER BY t.resource_type, t.category, t.kind
