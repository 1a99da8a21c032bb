SELECT month, held_by
FROM poller.expire(
  CAST(:keep AS interval), CAST(:pollers AS text[]), CAST(:practices AS text[]), CAST(:sinks AS text[]), CAST(:keeps AS interval[]))
