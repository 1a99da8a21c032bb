-- Lock-out: nothing is granted for so long from now. An earlier, longer one stays. The row is held already.
UPDATE poller.budget
SET blocked_until = greatest(blocked_until, clock_timestamp() + CAST(:length AS interval)),
    part = :part,
    cut_at = CASE WHEN CAST(:cut AS boolean) THEN clock_timestamp() ELSE cut_at END
WHERE practice = :practice
