-- A complete pass over a whole type, without resources that are stored: the first evidence on the way to a delete, never more than that.
-- A row whose stored version was read after this pass had begun proves nothing against it.
INSERT INTO poller.absence (practice, resource_type, id, target, state, reason, first_missing_at, pass_began, passes)
SELECT s.practice, s.resource_type, s.id, :target, 'missing', 'not in a complete pass', :now, :began, 1
FROM poller.snapshot AS s
WHERE s.practice = :practice
  AND s.resource_type = :resource_type
  AND NOT s.deleted
  AND s.read_ended < :began
  AND s.id NOT IN (SELECT unnest(CAST(:seen AS text[])))
ORDER BY s.id
ON CONFLICT (practice, resource_type, id) DO UPDATE
SET passes = absence.passes + 1,
    pass_began = EXCLUDED.pass_began,
    target = EXCLUDED.target,
    wait_passes = greatest(0, absence.wait_passes - 1)
