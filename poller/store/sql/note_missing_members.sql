-- A complete pass of a patient's target, or of all names, without resources that it had shown; as note_missing does for a whole type.
-- Where several types are read, what was seen is named with its type.
INSERT INTO poller.absence (practice, resource_type, id, target, state, reason, first_missing_at, pass_began, passes)
SELECT :practice, s.resource_type, s.id, :target, 'missing', 'not in a complete pass', :now, :began, 1
FROM (
  SELECT m.resource_type, m.id
  FROM poller.member AS m
  CROSS JOIN LATERAL (
    SELECT k.deleted, k.read_ended FROM poller.snapshot AS k
    WHERE k.practice = m.practice AND k.resource_type = m.resource_type AND k.id = m.id
    LIMIT 1) AS s
  WHERE m.practice = :practice
    AND m.target = :target
    AND m.resource_type = ANY (CAST(:types AS text[]))
    AND NOT s.deleted
    AND s.read_ended < :began
  EXCEPT
  SELECT o.resource_type, o.id FROM unnest(CAST(:seen_types AS text[]), CAST(:seen AS text[])) AS o (resource_type, id)) AS s
ORDER BY s.resource_type, s.id
ON CONFLICT (practice, resource_type, id) DO UPDATE
SET passes = absence.passes + 1,
    pass_began = EXCLUDED.pass_began,
    target = EXCLUDED.target,
    wait_passes = greatest(0, absence.wait_passes - 1)
