-- What a version names, in its transaction. A newer version of the note wants it again, since its content may have changed with it.
-- What was missing because no note named it is not missing any more.
WITH named AS (
  INSERT INTO poller.attachment (practice, id, owner_type, owner_id, owner_version, partition_key, state, bytes, next_try_at)
  SELECT :practice, n.id, n.owner_type, n.owner_id, n.owner_version, n.partition_key, n.state, n.bytes, :now
  FROM unnest(
    CAST(:ids AS text[]), CAST(:owner_types AS text[]), CAST(:owner_ids AS text[]), CAST(:owner_versions AS bigint[]),
    CAST(:partition_keys AS text[]), CAST(:states AS text[]), CAST(:sizes AS bigint[]))
    AS n (id, owner_type, owner_id, owner_version, partition_key, state, bytes)
  ORDER BY n.id, n.owner_type, n.owner_id
  ON CONFLICT (practice, id, owner_type, owner_id) DO UPDATE
  SET owner_version = EXCLUDED.owner_version, state = EXCLUDED.state, bytes = EXCLUDED.bytes, tries = 0, next_try_at = EXCLUDED.next_try_at
  WHERE attachment.owner_version < EXCLUDED.owner_version
  RETURNING id
)
DELETE FROM poller.absence AS a
USING (
  SELECT b.id
  FROM (SELECT DISTINCT id FROM named) AS n
  JOIN poller.absence AS b ON b.practice = :practice AND b.resource_type = 'Binary' AND b.id = n.id AND b.target = :target
  ORDER BY b.id
  FOR UPDATE OF b
) AS again
WHERE a.practice = :practice AND a.resource_type = 'Binary' AND a.id = again.id
