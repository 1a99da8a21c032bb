-- Targets that the configuration or the strategy no longer wants: not read, and no absence is concluded from them.
UPDATE poller.target SET retired_at = :now
WHERE practice = :practice AND resource_type = :resource_type AND retired_at IS NULL AND kind <> 'bulk'
  AND NOT (target = ANY (CAST(:targets AS text[])))
