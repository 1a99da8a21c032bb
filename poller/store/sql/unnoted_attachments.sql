-- Notes whose present version was never looked at for attachments: recorded while none were fetched for their type. Locked, so that what
-- is written of them is of the version that was read.
SELECT s.id, s.version, s.partition_key, s.codec, s.body
FROM poller.snapshot AS s
WHERE s.practice = :practice AND s.resource_type = :resource_type AND s.id > :after AND NOT s.deleted
  AND jsonb_exists(CAST(s.elements AS jsonb), :element)
  AND NOT EXISTS (
    SELECT FROM poller.attachment AS a
    WHERE a.practice = s.practice AND a.owner_type = s.resource_type AND a.owner_id = s.id AND a.owner_version = s.version)
ORDER BY s.id
LIMIT :limit
FOR UPDATE OF s
