-- Which of these resources have events parked for a sink.
SELECT DISTINCT p.resource_type, p.id
FROM unnest(CAST(:types AS text[]), CAST(:ids AS text[])) AS r (resource_type, id)
JOIN poller.parked AS p ON p.practice = :practice AND p.sink = :sink AND p.resource_type = r.resource_type AND p.id = r.id
