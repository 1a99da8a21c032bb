-- A person's word on parked events waits for the relay's step, and the relay for it.
SELECT epoch, sequence FROM poller.cursor WHERE sink = :sink AND practice = :practice FOR UPDATE
