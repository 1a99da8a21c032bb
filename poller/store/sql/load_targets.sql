SELECT target, resource_type, kind, category, patient, live, registered_at, cursor_at, baseline_at, last_began, complete_began,
       failures, unproven_streak, reread, sweep_found
FROM poller.target
WHERE practice = :practice AND retired_at IS NULL AND (CAST(:target AS text) IS NULL OR target = :target)
ORDER BY target
