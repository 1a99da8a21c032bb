-- The question is settled: neither evidence nor membership is left.
WITH settled AS (
  DELETE FROM poller.absence WHERE practice = :practice AND resource_type = :resource_type AND id = :id
)
DELETE FROM poller.member WHERE practice = :practice AND resource_type = :resource_type AND id = :id
