-- What was asked for in vain comes last: a read that shows a sick server makes the evidence against all others void.
SELECT resource_type, id, state, reason, first_missing_at, pass_began, passes, checks
FROM poller.absence
WHERE practice = :practice AND state IN ('missing', 'released') AND wait_passes = 0
ORDER BY checks, first_missing_at, resource_type, id
LIMIT :limit
