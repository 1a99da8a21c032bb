-- What these versions of notes do not name any more, a deleted note nothing at all: after want_attachments the others are of an older version.
UPDATE poller.attachment AS a
SET state = 'dropped', owner_version = o.owner_version, tries = 0, next_try_at = :now
FROM unnest(CAST(:owner_types AS text[]), CAST(:owner_ids AS text[]), CAST(:owner_versions AS bigint[]))
  AS o (owner_type, owner_id, owner_version)
WHERE a.practice = :practice AND a.owner_type = o.owner_type AND a.owner_id = o.owner_id AND a.owner_version < o.owner_version
  AND a.state <> 'dropped'
