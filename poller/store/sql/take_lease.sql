INSERT INTO poller.lease (practice, epoch, taken_at) VALUES (:practice, 1, clock_timestamp())
ON CONFLICT (practice) DO UPDATE SET epoch = lease.epoch + 1, taken_at = clock_timestamp()
RETURNING epoch
