-- A released event was refused once more: it waits again, and all of its resource behind it.
UPDATE poller.parked AS p
SET released = false,
    reason = CASE WHEN (p.epoch, p.sequence, p.ordinal) = (:epoch, :sequence, :ordinal) THEN :reason ELSE p.reason END
WHERE p.practice = :practice AND p.sink = :sink AND p.resource_type = :resource_type AND p.id = :id
