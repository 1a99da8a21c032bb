-- One that was forgotten goes on behind what it was, lest whoever held it then believe that it still does.
INSERT INTO poller.lease (practice, epoch, taken_at)
SELECT :practice, 1 + coalesce(max(f.lease), 0), clock_timestamp()
FROM poller.former AS f
WHERE f.digest = sha256(f.salt || convert_to(:practice, 'UTF8'))
ON CONFLICT (practice) DO UPDATE SET epoch = lease.epoch + 1, taken_at = clock_timestamp()
RETURNING epoch
