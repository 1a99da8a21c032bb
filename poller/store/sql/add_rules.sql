INSERT INTO poller.rules (form, noise) VALUES (:form, :noise) ON CONFLICT (form, noise) DO NOTHING
