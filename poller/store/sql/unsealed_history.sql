-- Versions of a practice whose bodies are not sealed. Nobody else ever changes one.
SELECT resource_type, id, version, recorded_at, codec, body
FROM poller.history
WHERE practice = :practice AND (resource_type, id, version) > (:after_type, :after_id, :after_version) AND codec <> :sealed
ORDER BY resource_type, id, version
LIMIT :limit
