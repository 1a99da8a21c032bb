-- What was asked for in vain comes last: a read that shows a sick server makes the evidence against all others void. Of a feed that is retired,
-- or that an operator has paused, nothing is concluded.
SELECT a.resource_type, a.id, a.state, a.reason, a.first_missing_at, a.pass_began, a.passes, a.checks, a.target
FROM poller.absence AS a
WHERE a.practice = :practice AND a.state IN ('missing', 'released') AND a.wait_passes = 0
  AND a.resource_type <> ALL (ARRAY(
    SELECT f.resource_type FROM poller.feed AS f WHERE f.practice = :practice AND f.retired_at IS NOT NULL
    UNION ALL
    SELECT p.resource_type FROM poller.operator_pause AS p
    WHERE p.practice = :practice AND (p.until_at IS NULL OR p.until_at > clock_timestamp())))
ORDER BY a.checks, a.first_missing_at, a.resource_type, a.id
LIMIT :limit
