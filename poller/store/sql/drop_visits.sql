DELETE FROM poller.visit WHERE practice = :practice AND id = ANY (CAST(:ids AS text[]))
