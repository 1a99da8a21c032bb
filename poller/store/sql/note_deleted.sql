-- What an export lists as deleted, or a pass shows with a label that its feed skips: evidence on the way to a delete, as a pass without it
-- is, and no more. What is not stored, is a tombstone already, or was read after that had begun is none. A file that is read twice counts
-- once.
INSERT INTO poller.absence (practice, resource_type, id, target, state, reason, first_missing_at, pass_began, passes)
SELECT :practice, i.resource_type, i.id, i.target, 'missing', :reason, :now, :began, 1
FROM (
  SELECT DISTINCT resource_type, id, target
  FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[]), CAST(:targets AS text[])) AS u (resource_type, id, target)) AS i
JOIN LATERAL (
  SELECT k.deleted, k.read_ended FROM poller.snapshot AS k
  WHERE k.practice = :practice AND k.resource_type = i.resource_type AND k.id = i.id
  LIMIT 1) AS s ON NOT s.deleted AND s.read_ended < :began
ORDER BY i.resource_type, i.id
ON CONFLICT (practice, resource_type, id) DO UPDATE
SET passes = absence.passes + 1,
    pass_began = EXCLUDED.pass_began,
    wait_passes = greatest(0, absence.wait_passes - 1)
WHERE absence.pass_began < EXCLUDED.pass_began
