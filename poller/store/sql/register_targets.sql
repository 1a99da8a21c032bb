-- A patient's targets are live from the start if the patient appeared after the practice's first enumeration and after the feed was set up.
-- A target that returns after retirement keeps its state and catches up.
INSERT INTO poller.target (practice, target, resource_type, kind, category, patient, live, registered_at)
SELECT :practice, r.target, :resource_type, r.kind, r.category, r.patient,
       coalesce(p.live AND p.first_seen_at >= f.registered_at, false), :now
FROM unnest(CAST(:targets AS text[]), CAST(:kinds AS text[]), CAST(:categories AS text[]), CAST(:patients AS text[]))
  AS r (target, kind, category, patient)
JOIN poller.feed AS f ON f.practice = :practice AND f.resource_type = :resource_type
LEFT JOIN poller.patient AS p ON p.practice = :practice AND p.id = r.patient
ORDER BY r.target
ON CONFLICT (practice, target) DO UPDATE SET retired_at = NULL WHERE target.retired_at IS NOT NULL
