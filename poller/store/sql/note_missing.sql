-- A complete pass over a whole type, without resources that are stored: the first evidence on the way to a delete, never more than that.
-- A row whose stored version was read after this pass had begun proves nothing against it.
-- EXCEPT, whose cost follows the numbers whatever the planner believes: NOT IN compares every id with every other once they do not fit
-- work_mem (some 150,000), for hours, and NOT EXISTS does where statistics have not caught up with a first sweep.
INSERT INTO poller.absence (practice, resource_type, id, target, state, reason, first_missing_at, pass_began, passes)
SELECT :practice, :resource_type, s.id, :target, 'missing', 'not in a complete pass', :now, :began, 1
FROM (
  SELECT k.id
  FROM poller.snapshot AS k
  WHERE k.practice = :practice
    AND k.resource_type = :resource_type
    AND NOT k.deleted
    AND k.read_ended < :began
  EXCEPT
  SELECT unnest(CAST(:seen AS text[]))) AS s
ORDER BY s.id
ON CONFLICT (practice, resource_type, id) DO UPDATE
SET passes = absence.passes + 1,
    pass_began = EXCLUDED.pass_began,
    target = EXCLUDED.target,
    wait_passes = greatest(0, absence.wait_passes - 1)
