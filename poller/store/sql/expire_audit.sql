SELECT poller.expire_audit(CAST(:keep AS interval)) AS removed
