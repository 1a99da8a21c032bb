-- The same key under another master key, unless someone has wrapped it anew meanwhile.
UPDATE poller.practice_key SET wrapped = :wrapped, master = :master
WHERE practice = :practice AND key_id = :key_id AND wrapped = :former
