-- What became of an attachment, for the notes that named it when it was taken up; one that has changed since wants it anew.
UPDATE poller.attachment AS a
SET state = :state, bytes = CAST(:bytes AS bigint), tries = :tries, next_try_at = :next_try_at
FROM (
  SELECT w.owner_type, w.owner_id
  FROM unnest(CAST(:owner_types AS text[]), CAST(:owner_ids AS text[]), CAST(:owner_versions AS bigint[]))
    AS o (owner_type, owner_id, owner_version)
  JOIN poller.attachment AS w
    ON w.practice = :practice AND w.id = :id AND w.owner_type = o.owner_type AND w.owner_id = o.owner_id
      AND w.owner_version = o.owner_version
  ORDER BY w.owner_type, w.owner_id
  FOR UPDATE OF w
) AS taken
WHERE a.practice = :practice AND a.id = :id AND a.owner_type = taken.owner_type AND a.owner_id = taken.owner_id
