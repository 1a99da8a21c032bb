SET LOCAL ROLE poller_owner;

-- Patients who are to be forgotten: what a source still shows of them is not taken up again. Of each only a salted digest of the id is kept.
CREATE TABLE poller.forgotten (
  practice     text NOT NULL,
  salt         bytea NOT NULL DEFAULT decode(replace(gen_random_uuid()::text, '-', ''), 'hex'),
  digest       bytea NOT NULL,
  forgotten_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (practice, salt)
);
GRANT SELECT ON poller.forgotten TO poller_engine;

-- Practices that were forgotten, each by a salted digest of its code: one that returns must go on behind what it was, or consumers take what is
-- new for what they have had, and a poller that slept for one that still reads it.
CREATE TABLE poller.former (
  salt          bytea PRIMARY KEY,
  digest        bytea NOT NULL,
  epoch         bigint NOT NULL,
  version_floor bigint NOT NULL,
  lease         bigint NOT NULL
);
GRANT SELECT ON poller.former TO poller_engine;

-- As before, and one thing more: what a practice that is forgotten has in the audit goes once it has been written elsewhere; so does what is
-- of the whole installation and names the practice.
CREATE OR REPLACE FUNCTION poller.keep_audit() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  forgotten CONSTANT text := nullif(current_setting('poller.audit_forgets', true), '');
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF current_setting('poller.audit_expires', true) = 'on' AND OLD.at < now() - interval '365 days' THEN
      RETURN OLD;
    END IF;
    IF forgotten IS NOT NULL AND (OLD.practice = forgotten OR OLD.practice = '*'
        AND jsonb_path_exists(OLD.scope, '$.** ? (@ == $p)', jsonb_build_object('p', forgotten)))
    THEN
      RETURN OLD;
    END IF;
  ELSIF TG_OP = 'UPDATE' THEN
    -- what is of others as well loses its name, and nothing else
    IF forgotten IS NOT NULL AND OLD.practice = '*'
        AND (NEW.practice, NEW.number, NEW.at, NEW.login, NEW.actor, NEW.action, NEW.reason)
            = (OLD.practice, OLD.number, OLD.at, OLD.login, OLD.actor, OLD.action, OLD.reason)
        AND NEW.scope = jsonb_set(OLD.scope, '{practices}', (OLD.scope -> 'practices') - forgotten)
    THEN
      RETURN NEW;
    END IF;
  END IF;
  RAISE EXCEPTION 'the audit is only ever appended to' USING ERRCODE = 'restrict_violation';
END $$;
RESET ROLE;
