-- A patient's targets are live from the start if the patient appeared after the practice's first enumeration and after the feed was set up.
-- So are those of another strategy, where the one before it has read the whole: what differs from that happened since.
-- A target that returns after retirement keeps its state and catches up.
INSERT INTO poller.target (practice, target, resource_type, kind, category, patient, live, registered_at)
SELECT :practice, r.target, :resource_type, r.kind, r.category, r.patient,
       coalesce(p.live AND p.first_seen_at >= f.registered_at, false)
         OR r.kind IN ('patient', 'names') AND EXISTS (
           SELECT FROM poller.target AS t
           WHERE t.practice = :practice AND t.resource_type = :resource_type AND t.kind = 'sweep' AND t.baseline_at IS NOT NULL)
         OR r.kind = 'sweep' AND EXISTS (
           SELECT FROM poller.target AS t
           WHERE t.practice = :practice AND t.resource_type = :resource_type AND t.kind IN ('patient', 'names')
             AND t.baseline_at IS NOT NULL)
         AND NOT EXISTS (
           SELECT FROM poller.target AS t
           WHERE t.practice = :practice AND t.resource_type = :resource_type AND t.kind IN ('patient', 'names')
             AND t.baseline_at IS NULL AND t.retired_at IS NULL),
       :now
FROM unnest(CAST(:targets AS text[]), CAST(:kinds AS text[]), CAST(:categories AS text[]), CAST(:patients AS text[]))
  AS r (target, kind, category, patient)
JOIN poller.feed AS f ON f.practice = :practice AND f.resource_type = :resource_type
LEFT JOIN poller.patient AS p ON p.practice = :practice AND p.id = r.patient
ORDER BY r.target
ON CONFLICT (practice, target) DO UPDATE SET retired_at = NULL, live = target.live OR EXCLUDED.live WHERE target.retired_at IS NOT NULL
