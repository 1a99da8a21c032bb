SELECT month, held_by FROM poller.expire(CAST(:keep AS interval), CAST(:sinks AS text[]), CAST(:practices AS text[]))
