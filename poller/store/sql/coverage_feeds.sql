-- How each feed is read, and what stands against it. Of the pauses, those of the feed itself come last.
SELECT f.resource_type, f.strategy, f.reason, f.advice, f.refused_since, f.retired_at, p.reason AS paused
FROM poller.feed AS f
LEFT JOIN (
  SELECT a.resource_type, a.reason FROM poller.pause AS a WHERE a.practice = :practice
  UNION ALL
  SELECT o.resource_type, 'by ' || o.actor || ': ' || o.reason FROM poller.operator_pause AS o
  WHERE o.practice = :practice AND (o.until_at IS NULL OR o.until_at > clock_timestamp())) AS p ON p.resource_type IN (f.resource_type, '*')
WHERE f.practice = :practice
ORDER BY f.resource_type, p.resource_type
