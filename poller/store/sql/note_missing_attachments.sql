-- Binary resources that no note names any more, after forget_attachments: evidence on the way to a delete, as note_missing has it. Noted
-- again and again while they are there, since no pass ever shows them, ever less often, down to daily.
WITH due AS (
  SELECT d.id, d.owner_type, d.owner_id
  FROM poller.attachment AS d
  WHERE d.practice = :practice AND d.state = 'dropped' AND d.next_try_at <= :now
  ORDER BY d.id, d.owner_type, d.owner_id
  FOR UPDATE OF d
), later AS (
  UPDATE poller.attachment AS a
  SET tries = a.tries + 1, next_try_at = :now + least(interval '1 day', interval '1 minute' * power(2, least(a.tries, 11)))
  FROM due
  WHERE a.practice = :practice AND a.id = due.id AND a.owner_type = due.owner_type AND a.owner_id = due.owner_id
  RETURNING a.id
)
INSERT INTO poller.absence (practice, resource_type, id, target, state, reason, first_missing_at, pass_began, passes)
SELECT DISTINCT CAST(:practice AS text), 'Binary', l.id, CAST(:target AS text), 'missing', 'no note names it any more', CAST(:now AS timestamptz),
       CAST(:now AS timestamptz), 1
FROM later AS l
ORDER BY l.id
ON CONFLICT (practice, resource_type, id) DO UPDATE
SET passes = absence.passes + 1,
    pass_began = EXCLUDED.pass_began,
    target = EXCLUDED.target,
    wait_passes = greatest(0, absence.wait_passes - 1)
