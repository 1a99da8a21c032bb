-- Visits that were so long ago that nothing follows from them any more.
DELETE FROM poller.visit WHERE practice = :practice AND start_at <= CAST(:since AS timestamptz)
