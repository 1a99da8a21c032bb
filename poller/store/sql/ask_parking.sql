-- An operator wants an event parked for a sink that has not come to it; the cursor's lock is held. Nothing is returned where that is asked already.
INSERT INTO poller.parking (practice, sink, epoch, sequence, actor, reason)
VALUES (:practice, :sink, :epoch, :sequence, :actor, :reason)
ON CONFLICT DO NOTHING
RETURNING sequence
