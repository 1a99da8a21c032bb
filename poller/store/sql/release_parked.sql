-- Lets parked events go on; the relay sends them. All of a resource or none, for the order's sake.
UPDATE poller.parked
SET released = true
WHERE practice = :practice AND sink = :sink AND NOT released
  AND (CAST(:resource_type AS text) IS NULL OR resource_type = :resource_type)
  AND (CAST(:id AS text) IS NULL OR id = :id)
