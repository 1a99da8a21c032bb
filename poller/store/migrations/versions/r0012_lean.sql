SET LOCAL ROLE poller_owner;

-- Room on each page for a next version of one of its resources: then no index has to be told of it.
ALTER TABLE poller.snapshot SET (fillfactor = 80);

-- Written and read whole, so it needs no parsing: a change replaces all of it.
ALTER TABLE poller.snapshot ALTER COLUMN elements TYPE json USING CAST(elements AS json);

-- Bodies are compressed already; Postgres need not try.
ALTER TABLE poller.snapshot ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE poller.history ALTER COLUMN body SET STORAGE EXTERNAL;

-- Elements are digested in another way from now on.
INSERT INTO poller.rules (form, noise) VALUES (2, '{}') ON CONFLICT DO NOTHING;
RESET ROLE;
