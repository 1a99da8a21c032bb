SET LOCAL ROLE poller_owner;

-- A month holds events of the practices of all pollers on the store, so each of them has a say in whether it goes. The function that knew
-- of one poller alone goes, so that an engine of before, which would still call it, drops nothing.
DROP FUNCTION poller.expire(interval, text[], text[]);
DROP FUNCTION poller.needed_by(regclass, timestamptz, text[], text[]);

-- Who still needs events of a partition. What needs them is told by rows of four arrays: a poller, a practice of it, and a sink of it whose
-- cursor has not passed the last of them, or that has one of them parked; or, without a sink, how long the poller keeps them, null: for ever.
CREATE FUNCTION poller.needed_by(
  part regclass, until timestamptz, pollers text[], practices text[], sinks text[], keeps interval[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  SELECT CASE WHEN n.sink IS NULL THEN format('retention of poller %s, practice %s', n.poller, l.practice)
              ELSE format('sink %s, practice %s', n.sink, l.practice) END
  FROM poller.last_events(part, until) AS l
  JOIN unnest(pollers, practices, sinks, keeps) AS n (poller, practice, sink, keep) ON n.practice = l.practice
  LEFT JOIN poller.cursor AS c ON c.sink = n.sink AND c.practice = l.practice
  WHERE CASE
    WHEN n.sink IS NULL THEN n.keep IS NULL OR until > date_trunc('month', (now() - n.keep) AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
    ELSE c.practice IS NULL OR (c.epoch, c.sequence) < (l.epoch, l.sequence)
      OR EXISTS (
        SELECT FROM poller.parked AS p
        WHERE p.practice = l.practice AND p.sink = n.sink AND (p.epoch, p.sequence) <= (l.epoch, l.sequence)) END
  ORDER BY n.sink NULLS FIRST, l.practice
  LIMIT 1
$$;

-- Drops the oldest month that is wholly older than `keep` and that nobody needs; one month a call, since what it locks it locks until the end.
-- Of each resource the last version from before stays, so that the state at any time since, and a patch from it, can be told.
-- The checks are in here: the engine has no other way to delete what is history.
CREATE FUNCTION poller.expire(
  keep interval, pollers text[], practices text[], sinks text[], keeps interval[], OUT month date, OUT held_by text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  first_kept CONSTANT date := date_trunc('month', (now() - keep) AT TIME ZONE 'UTC')::date;
  ends       timestamptz;
  events     regclass;
  versions   regclass;
  remnant    text;
  older      regclass;
  is_empty   boolean;
BEGIN
  IF keep < interval '28 days' THEN
    RAISE EXCEPTION 'history is kept for at least 28 days' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF NOT pg_try_advisory_xact_lock(hashtext('poller.expire')) THEN
    RETURN;
  END IF;
  SELECT min(to_date(substr(c.relname, length('event_') + 1), 'YYYYMM')) INTO month
  FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
  WHERE i.inhparent = 'poller.event'::regclass AND c.relname ~ '^event_[0-9]{6}$'
    AND to_date(substr(c.relname, length('event_') + 1), 'YYYYMM') < first_kept;
  IF month IS NULL THEN
    RETURN;
  END IF;
  ends := (month + interval '1 month') AT TIME ZONE 'UTC';
  events := format('poller.%I', 'event_' || to_char(month, 'YYYYMM'))::regclass;
  versions := to_regclass(format('poller.%I', 'history_' || to_char(month, 'YYYYMM')));
  held_by := coalesce(
    poller.needed_by(events, ends, pollers, practices, sinks, keeps),
    poller.needed_by('poller.event_default', ends, pollers, practices, sinks, keeps));
  IF held_by IS NOT NULL THEN
    RETURN;
  END IF;

  -- First all that takes long and locks nothing that others wait for.
  INSERT INTO poller.expired AS x (practice, epoch, sequence, before, dropped_at)
  SELECT DISTINCT ON (l.practice) l.practice, l.epoch, l.sequence, ends, now()
  FROM (SELECT * FROM poller.last_events(events, ends) UNION ALL SELECT * FROM poller.last_events('poller.event_default', ends)) AS l
  ORDER BY l.practice, l.epoch DESC, l.sequence DESC
  ON CONFLICT (practice) DO UPDATE
  SET epoch = excluded.epoch, sequence = excluded.sequence, before = excluded.before, dropped_at = excluded.dropped_at;
  DELETE FROM poller.event_default WHERE recorded_at < ends;
  DELETE FROM poller.history_default AS h
  WHERE h.recorded_at < ends AND EXISTS (
    SELECT FROM poller.history AS n
    WHERE n.practice = h.practice AND n.resource_type = h.resource_type AND n.id = h.id AND n.version > h.version AND n.recorded_at < ends);
  IF versions IS NOT NULL THEN
    remnant := 'history_' || to_char(month, 'YYYYMM') || '_last';
    EXECUTE format('CREATE TABLE poller.%I (LIKE poller.history INCLUDING ALL)', remnant);
    EXECUTE format(
      'INSERT INTO poller.%I SELECT * FROM %s AS h WHERE NOT EXISTS (
         SELECT FROM poller.history AS n
         WHERE n.practice = h.practice AND n.resource_type = h.resource_type AND n.id = h.id AND n.version > h.version AND n.recorded_at < $1)',
      remnant, versions) USING ends;
    -- So that the partition is taken in without being read.
    EXECUTE format(
      'ALTER TABLE poller.%I ADD CHECK (recorded_at IS NOT NULL AND recorded_at >= %L AND recorded_at < %L)',
      remnant, month::timestamp AT TIME ZONE 'UTC', ends);
  END IF;
  FOR older IN
    SELECT c.oid::regclass FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'poller.history'::regclass AND c.relname ~ '^history_[0-9]{6}_last$'
  LOOP
    EXECUTE format(
      'DELETE FROM %s AS h WHERE EXISTS (
         SELECT FROM poller.history AS n
         WHERE n.practice = h.practice AND n.resource_type = h.resource_type AND n.id = h.id AND n.version > h.version AND n.recorded_at < $1)',
      older) USING ends;
  END LOOP;

  -- Then, shortly, what readers and writers wait for.
  EXECUTE format('DROP TABLE %s', events);
  IF versions IS NOT NULL THEN
    EXECUTE format('DROP TABLE %s', versions);
    EXECUTE format('SELECT NOT EXISTS (SELECT FROM poller.%I)', remnant) INTO is_empty;
    IF is_empty THEN
      EXECUTE format('DROP TABLE poller.%I', remnant);
    ELSE
      EXECUTE format(
        'ALTER TABLE poller.history ATTACH PARTITION poller.%I FOR VALUES FROM (%L) TO (%L)',
        remnant, month::timestamp AT TIME ZONE 'UTC', ends);
    END IF;
  END IF;
END $$;
REVOKE ALL ON FUNCTION poller.needed_by(regclass, timestamptz, text[], text[], text[], interval[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION poller.expire(interval, text[], text[], text[], interval[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION poller.expire(interval, text[], text[], text[], interval[]) TO poller_engine;

-- Why reading the practice ended in an error and was begun anew: a code of ours, or a SQLSTATE, never words. Since when that is so, until a
-- pass ends well: a practice that begins again and again gives signs of life all the while.
ALTER TABLE poller.heartbeat
  ADD COLUMN failure   text,
  ADD COLUMN failed_at timestamptz;
RESET ROLE;
