-- What a sweep leaves for the windows beside it: where the first one starts, and what the next one must show.
UPDATE poller.target
SET cursor_at = coalesce(cursor_at, CAST(:window_from AS timestamptz)),
    sweep_found = ARRAY(SELECT unnest(sweep_found) UNION SELECT unnest(CAST(:sweep_found AS text[])))
WHERE practice = :practice AND resource_type = :resource_type AND kind = 'window'
