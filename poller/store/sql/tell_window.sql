-- What a sweep has found changed, the windows beside it must show. Said with each batch: told only at the end of a long sweep, windows
-- would be asked for what they showed, and moved past, while it lasted.
UPDATE poller.target
SET sweep_found = ARRAY(SELECT unnest(sweep_found) UNION SELECT unnest(CAST(:found AS text[])))
WHERE practice = :practice AND target = :target
