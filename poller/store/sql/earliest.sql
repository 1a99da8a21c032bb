SELECT epoch, sequence, before, dropped_at FROM poller.expired WHERE practice = :practice
