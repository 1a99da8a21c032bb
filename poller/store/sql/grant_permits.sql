-- Permits of practices, in one atomic step, by the database's clock: of each after all that were granted before; none while the practice is
-- locked out, or while those granted before reach past the horizon. A row is locked while the clock is read for it, so blocks never overlap.
-- A clock that was set back (it says less than it told before) takes all instants back with it, else nothing would leave until it has
-- caught up. After a 429 the pace is a part of the whole one, and rises.
-- How many were granted in this minute and the one before is counted for people.
-- Where several are asked for (not :alone), a practice that another process holds at this moment, or that has no row yet, is left out: the
-- others must not wait for it. So that waits for no lock, whatever the order in which others take theirs.
WITH asked AS MATERIALIZED (
  SELECT a.practice, a.want, a.gap, a.lead, a.horizon
  FROM unnest(CAST(:practices AS text[]), CAST(:wants AS integer[]), CAST(:gaps AS interval[]), CAST(:leads AS interval[]), CAST(:horizons AS interval[]))
    AS a (practice, want, gap, lead, horizon)),
free AS MATERIALIZED (
  SELECT f.practice FROM poller.budget AS f
  WHERE NOT CAST(:alone AS boolean) AND f.practice = ANY (CAST(:practices AS text[]))
  FOR UPDATE SKIP LOCKED)
INSERT INTO poller.budget AS b (practice, told_at, starts_at, next_at, granted, minute, used)
SELECT a.practice, c.now, c.now + a.lead, c.now + a.lead + a.gap * a.want, a.want, date_trunc('minute', c.now), a.want
FROM asked AS a
CROSS JOIN LATERAL (SELECT a.practice, clock_timestamp() AS now OFFSET 0) AS c
WHERE CAST(:alone AS boolean) OR a.practice IN (SELECT free.practice FROM free)
ON CONFLICT (practice) DO UPDATE
SET (told_at, blocked_until, cut_at, starts_at, next_at, granted, minute, used, used_before) = (
  SELECT c.now, was.blocked_until, was.cut_at, block.starts_at,
         CASE WHEN block.granted > 0 THEN block.starts_at + pace.gap * block.granted ELSE was.next_at END, block.granted,
         date_trunc('minute', c.now),
         CASE WHEN b.minute = date_trunc('minute', c.now) THEN b.used ELSE 0 END + block.granted,
         CASE WHEN b.minute = date_trunc('minute', c.now) THEN b.used_before
              WHEN b.minute = date_trunc('minute', c.now) - interval '1 minute' THEN b.used ELSE 0 END
  FROM (SELECT b.practice, clock_timestamp() AS now OFFSET 0) AS c -- named with the row, so that it is read anew for each
  JOIN asked AS a ON a.practice = b.practice
  CROSS JOIN LATERAL (SELECT greatest(b.told_at - c.now, interval '0') AS by) AS back
  CROSS JOIN LATERAL (
    SELECT b.next_at - back.by AS next_at, b.blocked_until - back.by AS blocked_until, b.cut_at - back.by AS cut_at) AS was
  CROSS JOIN LATERAL (
    SELECT a.gap / coalesce(
      least(1, b.part + CAST(:raise AS double precision) * greatest(0, extract(epoch FROM c.now - was.cut_at))), 1) AS gap) AS pace
  CROSS JOIN LATERAL (
    SELECT greatest(was.next_at, c.now + a.lead) AS starts_at,
           CASE WHEN was.blocked_until > c.now OR was.next_at > c.now + a.horizon THEN 0
                ELSE least(a.want, greatest(1, CAST(floor(extract(epoch FROM CAST(:block AS interval)) / extract(epoch FROM pace.gap)) AS integer))) END AS granted
  ) AS block
)
RETURNING b.practice, b.granted, CAST(extract(epoch FROM b.told_at) AS double precision) AS told,
  CAST(extract(epoch FROM b.starts_at - b.told_at) AS double precision) AS delay,
  CAST(extract(epoch FROM b.next_at - b.told_at) AS double precision) AS reach,
  CAST(extract(epoch FROM b.blocked_until - b.told_at) AS double precision) AS blocked,
  b.part, CAST(extract(epoch FROM b.told_at - b.cut_at) AS double precision) AS since_cut
