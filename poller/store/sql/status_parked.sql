-- Why events of these practices are parked, each reason with how many, most first; those that only wait for an earlier one of their resource
-- come after.
SELECT k.sink, k.practice, k.reason, count(*) AS events
FROM poller.parked AS k
WHERE k.practice = ANY (CAST(:practices AS text[])) AND NOT k.released
GROUP BY k.sink, k.practice, k.reason
ORDER BY k.sink, k.practice, k.reason = :behind, count(*) DESC
