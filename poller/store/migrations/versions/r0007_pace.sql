SET LOCAL ROLE poller_owner;

-- Rate budget of a practice: the last block of permits and, by the same clock, when it was granted, so that it shows when that clock is set
-- back; and what 429s have left of the pace, since when.
ALTER TABLE poller.budget
  ADD COLUMN told_at   timestamptz,
  ADD COLUMN starts_at timestamptz,
  ADD COLUMN granted   integer NOT NULL DEFAULT 0,
  ADD COLUMN part      double precision NOT NULL DEFAULT 1 CHECK (part > 0 AND part <= 1),
  ADD COLUMN cut_at    timestamptz;
RESET ROLE;
