SELECT t.target, t.resource_type, t.kind, t.category, t.patient, t.live, t.registered_at, t.cursor_at, t.baseline_at, t.last_began,
       t.complete_began, t.failures, t.unproven_streak, t.reread, t.sweep_found, t.types, t.known,
       p.gone_at IS NOT NULL AS gone
FROM poller.target AS t
LEFT JOIN poller.patient AS p ON p.practice = t.practice AND p.id = t.patient
WHERE t.practice = :practice AND t.retired_at IS NULL AND (CAST(:target AS text) IS NULL OR t.target = :target)
ORDER BY t.target
