-- Whether a feed has been read at all by some strategy, and whether something of it, or the enumeration of its patients, is still to be read
-- for the first time.
SELECT
  EXISTS (
    SELECT FROM poller.target AS t
    WHERE t.practice = :practice AND t.resource_type = :resource_type AND t.baseline_at IS NOT NULL
      AND t.kind IN ('sweep', 'patient', 'patients', 'names', 'bulk'))
  OR EXISTS (
    SELECT FROM poller.target AS t
    WHERE t.practice = :practice AND t.kind = 'everything' AND :resource_type = ANY (t.known)) AS read,
  EXISTS (
    SELECT FROM poller.target AS t
    WHERE t.practice = :practice AND t.baseline_at IS NULL AND t.retired_at IS NULL
      AND NOT t.live -- a new patient is no part of the first reading
      AND (t.resource_type = :resource_type AND t.kind IN ('sweep', 'patient', 'patients', 'names')
           OR t.kind = 'names' AND :resource_type <> 'Patient'))
  OR EXISTS (
    SELECT FROM poller.target AS t
    WHERE t.practice = :practice AND t.kind = 'everything' AND t.retired_at IS NULL
      AND :resource_type = ANY (t.types) AND NOT (:resource_type = ANY (t.known))) AS unread
