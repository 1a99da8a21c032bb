-- The tombstone: it keeps the version, so that a resource that comes back goes on counting; the content stays in history only.
UPDATE poller.snapshot
SET version = :version, deleted = true, codec = NULL, key_id = NULL, body = NULL, read_began = :read_began, read_ended = :read_ended,
    changed_at = :now
WHERE practice = :practice AND resource_type = :resource_type AND id = :id
RETURNING categories, status, partition_key, digest, last_modified, rules_version
