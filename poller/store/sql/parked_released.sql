-- The first released events of a sink in a practice, in order.
SELECT epoch, sequence, ordinal, resource_type, id
FROM poller.parked
WHERE practice = :practice AND sink = :sink AND released
ORDER BY epoch, sequence, ordinal
LIMIT :limit
