-- A whole bulk export of a type without resources that earlier ones had shown: as note_missing, by when each was last shown.
INSERT INTO poller.absence (practice, resource_type, id, target, state, reason, first_missing_at, pass_began, passes)
SELECT :practice, m.resource_type, m.id, :target, 'missing', 'not in a whole bulk export', :now, :began, 1
FROM poller.member AS m
CROSS JOIN LATERAL (
  SELECT k.deleted, k.read_ended FROM poller.snapshot AS k
  WHERE k.practice = m.practice AND k.resource_type = m.resource_type AND k.id = m.id
  LIMIT 1) AS s
WHERE m.practice = :practice
  AND m.target = :target
  AND m.seen_at < :began
  AND NOT s.deleted
  AND s.read_ended < :began
ORDER BY m.resource_type, m.id
ON CONFLICT (practice, resource_type, id) DO UPDATE
SET passes = absence.passes + 1,
    pass_began = EXCLUDED.pass_began,
    target = EXCLUDED.target,
    wait_passes = greatest(0, absence.wait_passes - 1)
WHERE absence.pass_began < EXCLUDED.pass_began -- an end that is told again after a restart is no second one
