WITH begun AS (
  UPDATE poller.practice_log
  SET epoch = greatest(epoch + 1, CAST(extract(epoch FROM clock_timestamp()) AS bigint)),
      earlier = earlier + head,
      head = 0,
      version_floor = greatest(version_floor + 1, CAST(extract(epoch FROM clock_timestamp()) AS bigint) * 1000)
  WHERE practice = :practice
  RETURNING practice, epoch
), fenced AS (
  UPDATE poller.lease SET epoch = lease.epoch + 1 FROM begun WHERE lease.practice = begun.practice
)
SELECT epoch FROM begun
