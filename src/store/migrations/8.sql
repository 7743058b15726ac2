-- The path of the agent's transcript of a session, as the agent's hooks report it. The transcript itself is not stored.
ALTER TABLE peer ADD COLUMN transcript TEXT;
