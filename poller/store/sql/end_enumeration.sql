-- How an enumeration of patients ended. One that failed leaves the last complete one in force; found is -1 until there is one.
INSERT INTO poller.enumeration (practice, source, began, ended, found, failure)
VALUES (:practice, :source, :began, :ended, CASE WHEN :complete THEN :found ELSE -1 END, :failure)
ON CONFLICT (practice, source) DO UPDATE
SET began = CASE WHEN :complete THEN EXCLUDED.began ELSE enumeration.began END,
    ended = CASE WHEN :complete THEN EXCLUDED.ended ELSE enumeration.ended END,
    found = CASE WHEN :complete THEN EXCLUDED.found ELSE enumeration.found END,
    failure = EXCLUDED.failure
