-- The latest entries of the audit, the last first: of a practice and of the installation as a whole, or of all practices.
SELECT practice, at, login, actor, action, scope, reason
FROM poller.audit
WHERE (CAST(:practice AS text) IS NULL OR practice IN (:practice, '*'))
  AND (CAST(:since AS timestamptz) IS NULL OR at >= :since)
  AND (CAST(:until AS timestamptz) IS NULL OR at < :until)
  AND (CAST(:action AS text) IS NULL OR action = :action)
  AND (CAST(:actor AS text) IS NULL OR actor = :actor)
ORDER BY at DESC, number DESC
LIMIT :limit
