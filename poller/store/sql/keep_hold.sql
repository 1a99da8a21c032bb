-- Nothing is returned if the hold is not granted, or has lapsed.
UPDATE poller.hold SET expires_at = clock_timestamp() + :length
WHERE practice = :practice AND sink = :sink AND replay = :replay AND state = 'held' AND expires_at > clock_timestamp()
RETURNING epoch, sequence
