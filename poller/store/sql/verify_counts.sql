-- How many resources stand how, by type.
SELECT v.resource_type, v.outcome, count(*) AS resources
FROM pg_temp.verified AS v
GROUP BY v.resource_type, v.outcome
ORDER BY v.resource_type, v.outcome
