-- The agent process whose hooks or verbs made a session known: after a restart of the broker the session is
-- online as long as that process lives. Number and start together name a process.
ALTER TABLE peer ADD COLUMN agent_pid INTEGER;
ALTER TABLE peer ADD COLUMN agent_start INTEGER;
