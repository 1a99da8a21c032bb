-- Accepted configurations, the latest first: one by its number, those of one name, or all.
SELECT revision, name, accepted_at, actor, reason, written
FROM poller.configuration
WHERE (CAST(:revision AS bigint) IS NULL OR revision = :revision)
  AND (CAST(:name AS text) IS NULL OR name = :name)
ORDER BY revision DESC
LIMIT :limit
