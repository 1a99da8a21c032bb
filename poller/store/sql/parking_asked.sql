-- What operators want parked for a sink, and it has not come to.
SELECT practice, epoch, sequence, reason || ' (' || actor || ')' AS words
FROM poller.parking
WHERE sink = :sink AND (CAST(:practice AS text) IS NULL OR practice = :practice) AND met_at IS NULL
ORDER BY practice, epoch, sequence
