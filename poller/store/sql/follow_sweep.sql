-- Where the first window beside a sweep starts.
UPDATE poller.target
SET cursor_at = CAST(:window_from AS timestamptz)
WHERE practice = :practice AND resource_type = :resource_type AND kind = 'window' AND cursor_at IS NULL
