-- The searches of these practices, those that are alike together: how many, how many were never read whole or failed at the last try and
-- how, and of which moment the oldest whole read is; one that never was counts from when it was made. Of who is gone nothing is owed.
SELECT t.practice, t.resource_type, t.kind, t.category, t.types, t.known,
       count(*) AS targets,
       count(*) FILTER (WHERE t.complete_began IS NULL) AS unread,
       count(*) FILTER (WHERE t.failures > 0) AS failing,
       mode() WITHIN GROUP (ORDER BY t.failure) FILTER (WHERE t.failures > 0) AS failure,
       min(coalesce(t.complete_began, t.registered_at)) AS oldest,
       max(t.complete_ended) AS last_complete
FROM poller.target AS t
LEFT JOIN poller.patient AS p ON p.practice = t.practice AND p.id = t.patient AND p.gone_at IS NOT NULL
WHERE t.practice = ANY (CAST(:practices AS text[])) AND t.retired_at IS NULL AND t.kind <> 'bulk' AND p.id IS NULL
GROUP BY t.practice, t.resource_type, t.kind, t.category, t.types, t.known
ORDER BY t.practice, t.resource_type, t.kind, t.category
