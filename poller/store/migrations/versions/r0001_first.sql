-- Roles. Each can do no more than it must; people and services log in as themselves and are granted one of them.
-- Roles belong to the cluster, so another database's migration may have made them already.
DO $$
DECLARE
  wanted text;
  -- Since PostgreSQL 16 whoever makes a role is a member of it without the right to act as it.
  right_to_act CONSTANT text := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['poller_owner', 'poller_engine', 'poller_relay', 'poller_reader', 'poller_status'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL; -- made by another migration in the meantime, which is all we want
      END;
    END IF;
    IF NOT pg_has_role(current_user, wanted, right_to_act) THEN
      EXECUTE format('GRANT %I TO %I', wanted, current_user);
    END IF;
  END LOOP;
  EXECUTE format('GRANT CREATE ON DATABASE %I TO poller_owner', current_database());
END $$;

CREATE SCHEMA poller AUTHORIZATION poller_owner;
SET LOCAL ROLE poller_owner;

-- One row: which digest key this database belongs to. Another key would make every resource look changed.
CREATE TABLE poller.installation (
  singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  key_check  bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Head of each practice's event log. Taken last in a writing transaction: gapless, in commit order, a rollback burns nothing.
CREATE TABLE poller.practice_log (
  practice      text PRIMARY KEY,
  epoch         bigint NOT NULL DEFAULT 1 CHECK (epoch > 0),
  head          bigint NOT NULL DEFAULT 0 CHECK (head >= 0),
  version_floor bigint NOT NULL DEFAULT 1 CHECK (version_floor > 0)
);

-- Who polls a practice. The epoch rises with each takeover and fences whoever held it before.
CREATE TABLE poller.lease (
  practice text PRIMARY KEY,
  epoch    bigint NOT NULL,
  taken_at timestamptz NOT NULL
);

-- Rate budget: the instant from which the next permit may be used.
CREATE TABLE poller.budget (
  practice      text PRIMARY KEY,
  next_at       timestamptz NOT NULL,
  blocked_until timestamptz
);

CREATE TABLE poller.feed (
  practice        text NOT NULL,
  resource_type   text NOT NULL,
  registered_at   timestamptz NOT NULL,
  strategy        text,
  reason          text,
  evidence        jsonb,
  probed_at       timestamptz,
  stepped_down_at timestamptz,
  found_by_sweep  bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (practice, resource_type)
);

CREATE TABLE poller.target (
  practice         text NOT NULL,
  target           text NOT NULL,
  resource_type    text NOT NULL,
  kind             text NOT NULL,
  category         text,
  patient          text,
  live             boolean NOT NULL,
  registered_at    timestamptz NOT NULL,
  retired_at       timestamptz,
  cursor_at        timestamptz,
  baseline_at      timestamptz,
  last_began       timestamptz,
  complete_began   timestamptz,
  complete_ended   timestamptz,
  coverage         text,
  failure          text,
  failures         integer NOT NULL DEFAULT 0,
  unproven_streak  integer NOT NULL DEFAULT 0,
  reread           boolean NOT NULL DEFAULT false,
  sweep_found      text[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (practice, target)
);

CREATE TABLE poller.patient (
  practice      text NOT NULL,
  id            text NOT NULL,
  live          boolean NOT NULL,
  first_seen_at timestamptz NOT NULL,
  gone_at       timestamptz,
  PRIMARY KEY (practice, id)
);

-- The present state of every resource, tombstones included; outlives retention, so that versions never start again.
CREATE TABLE poller.snapshot (
  practice         text NOT NULL,
  resource_type    text NOT NULL,
  id               text NOT NULL,
  version          bigint NOT NULL,
  deleted          boolean NOT NULL,
  digest           bytea NOT NULL,
  elements         jsonb NOT NULL,
  rules_version    integer NOT NULL,
  codec            smallint,
  key_id           text,
  body             bytea,
  last_modified    timestamptz,
  categories       text[] NOT NULL,
  status           text,
  partition_key    text NOT NULL,
  entered_in_error boolean NOT NULL,
  replaced_by      text,
  read_began       timestamptz NOT NULL,
  read_ended       timestamptz NOT NULL,
  first_seen_at    timestamptz NOT NULL,
  changed_at       timestamptz NOT NULL,
  PRIMARY KEY (practice, resource_type, id)
);
CREATE INDEX snapshot_partition_key ON poller.snapshot (practice, partition_key);

-- Which resources a target's content reads have shown: what is missing from a complete pass is looked up here.
CREATE TABLE poller.member (
  practice      text NOT NULL,
  target        text NOT NULL,
  resource_type text NOT NULL,
  id            text NOT NULL,
  PRIMARY KEY (practice, target, resource_type, id)
);
CREATE INDEX member_resource ON poller.member (practice, resource_type, id);

-- Evidence on the way to a delete, and why it has not been published yet.
CREATE TABLE poller.absence (
  practice         text NOT NULL,
  resource_type    text NOT NULL,
  id               text NOT NULL,
  target           text NOT NULL,
  state            text NOT NULL CHECK (state IN ('missing', 'held', 'released', 'discarded')),
  reason           text NOT NULL,
  first_missing_at timestamptz NOT NULL,
  pass_began       timestamptz NOT NULL,
  passes           integer NOT NULL,
  checks           integer NOT NULL DEFAULT 0,
  wait_passes      integer NOT NULL DEFAULT 0,
  PRIMARY KEY (practice, resource_type, id)
);

CREATE TABLE poller.history (
  practice      text NOT NULL,
  resource_type text NOT NULL,
  id            text NOT NULL,
  version       bigint NOT NULL,
  recorded_at   timestamptz NOT NULL,
  action        text NOT NULL,
  digest        bytea NOT NULL,
  rules_version integer NOT NULL,
  codec         smallint,
  key_id        text,
  body          bytea,
  read_began    timestamptz NOT NULL,
  read_ended    timestamptz NOT NULL,
  PRIMARY KEY (practice, resource_type, id, version, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE TABLE poller.history_default PARTITION OF poller.history DEFAULT;

CREATE TABLE poller.event (
  practice      text NOT NULL,
  epoch         bigint NOT NULL,
  sequence      bigint NOT NULL,
  recorded_at   timestamptz NOT NULL,
  event_id      uuid NOT NULL,
  resource_type text NOT NULL,
  id            text NOT NULL,
  version       bigint NOT NULL,
  action        text NOT NULL,
  origin        text NOT NULL,
  digest        bytea NOT NULL,
  changed       text[] NOT NULL,
  categories    text[] NOT NULL,
  status        text,
  partition_key text NOT NULL,
  previous_read timestamptz,
  last_modified timestamptz,
  evidence      text,
  PRIMARY KEY (practice, epoch, sequence, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE TABLE poller.event_default PARTITION OF poller.event DEFAULT;
CREATE INDEX event_resource ON poller.event (practice, resource_type, id, version);
CREATE INDEX event_partition_key ON poller.event (practice, partition_key, recorded_at);
CREATE INDEX event_deleted ON poller.event (practice, resource_type, recorded_at) WHERE action = 'deleted';

-- How far each sink is in each practice's log; there are no "published" flags.
CREATE TABLE poller.cursor (
  sink     text NOT NULL,
  practice text NOT NULL,
  epoch    bigint NOT NULL,
  sequence bigint NOT NULL,
  routed   text,
  moved_at timestamptz NOT NULL,
  PRIMARY KEY (sink, practice)
);

-- Makes the partitions of this month and the next; the default partitions catch what no one foresaw, so nothing is refused. A month that
-- has rows there already stays there: moving them would lock the log.
CREATE FUNCTION poller.ensure_partitions(today date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  base  text;
  month date;
BEGIN
  FOREACH base IN ARRAY ARRAY['history', 'event'] LOOP
    FOR offset_months IN 0..1 LOOP
      month := (date_trunc('month', today) + make_interval(months => offset_months))::date;
      IF to_regclass(format('poller.%I', base || '_' || to_char(month, 'YYYYMM'))) IS NULL THEN
        PERFORM pg_advisory_xact_lock(hashtext('poller.ensure_partitions'));
        IF to_regclass(format('poller.%I', base || '_' || to_char(month, 'YYYYMM'))) IS NULL THEN
          BEGIN
            EXECUTE format(
              'CREATE TABLE poller.%I PARTITION OF poller.%I FOR VALUES FROM (%L) TO (%L)',
              base || '_' || to_char(month, 'YYYYMM'), base,
              month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month')::timestamp AT TIME ZONE 'UTC');
          EXCEPTION WHEN check_violation THEN
            NULL;
          END;
        END IF;
      END IF;
    END LOOP;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION poller.ensure_partitions(date) FROM PUBLIC;

GRANT USAGE ON SCHEMA poller TO poller_engine, poller_relay, poller_reader, poller_status;

-- The engine reads and writes state, and only ever appends to what is history.
GRANT EXECUTE ON FUNCTION poller.ensure_partitions(date) TO poller_engine;
GRANT SELECT, INSERT ON poller.installation TO poller_engine;
GRANT SELECT, INSERT, UPDATE ON poller.practice_log, poller.lease, poller.budget, poller.feed, poller.target, poller.patient, poller.snapshot TO poller_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON poller.member, poller.absence TO poller_engine;
GRANT SELECT, INSERT ON poller.history, poller.event TO poller_engine;
GRANT SELECT ON poller.cursor TO poller_engine;

-- The relay reads the log and moves cursors; it can change no event.
GRANT SELECT ON poller.practice_log, poller.history, poller.event TO poller_relay;
GRANT SELECT, INSERT, UPDATE ON poller.cursor TO poller_relay;

-- A reader sees patients' data and can write nothing.
GRANT SELECT ON ALL TABLES IN SCHEMA poller TO poller_reader;

-- Status sees how things stand and no body: columns with content are left out.
GRANT SELECT ON poller.practice_log, poller.lease, poller.budget, poller.feed, poller.cursor TO poller_status;
GRANT SELECT (practice, resource_type, kind, category, live, registered_at, retired_at, cursor_at, baseline_at, last_began,
  complete_began, complete_ended, coverage, failure, failures, unproven_streak, reread) ON poller.target TO poller_status;
GRANT SELECT (practice, resource_type, state, reason, first_missing_at, passes, checks) ON poller.absence TO poller_status;
RESET ROLE;
