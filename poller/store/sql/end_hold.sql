-- Ends a hold, also one that is being granted just now: this waits for the grant, and frees the cursor as it is then. What the cursor says of
-- who holds it is not asked: that would be read as it was before the wait, and leave a practice held for good by a replay that is gone.
WITH ended AS (
  DELETE FROM poller.hold WHERE practice = :practice AND sink = :sink AND replay = :replay RETURNING practice, sink
)
UPDATE poller.cursor AS c SET held = NULL FROM ended WHERE c.practice = ended.practice AND c.sink = ended.sink
