-- The process of the agent, if the agent's hooks, or commands of slm-mesh in its shell, registered the session. After a
-- restart of the broker, such a session is online as long as that process lives. The process id and the start time
-- together identify a process.
ALTER TABLE peer ADD COLUMN agent_pid INTEGER;
ALTER TABLE peer ADD COLUMN agent_start INTEGER;
