-- Renames tables and columns after their purpose, and gives each column only one meaning.
ALTER TABLE tally RENAME TO counters;
ALTER TABLE who RENAME TO peer_number;
ALTER TABLE wake RENAME TO wakeup;
ALTER TABLE wakeup RENAME COLUMN surface TO channel;
ALTER TABLE wakeup RENAME COLUMN how TO outcome;
-- The key of a session and the address of a linked peer's mesh shared a column until now.
ALTER TABLE peer RENAME COLUMN session TO session_key;
ALTER TABLE peer RENAME COLUMN started TO first_seen;
ALTER TABLE peer RENAME COLUMN seen TO last_seen;
ALTER TABLE peer RENAME COLUMN here TO online;
ALTER TABLE peer RENAME COLUMN uds_path TO push_socket;
ALTER TABLE peer ADD COLUMN mesh_url TEXT;
UPDATE peer SET mesh_url = session_key, session_key = '' WHERE kind = 'link';
-- The delivery channel, the address of the other mesh, and the reason of that mesh for a refusal shared a column until
-- now.
ALTER TABLE message RENAME COLUMN target TO recipient_group;
ALTER TABLE message RENAME COLUMN taken TO bytes_read;
ALTER TABLE message RENAME COLUMN surface TO channel;
ALTER TABLE message ADD COLUMN mesh_url TEXT;
ALTER TABLE message ADD COLUMN rejection TEXT;
UPDATE message SET mesh_url = channel, channel = NULL WHERE state = 5;
UPDATE message SET mesh_url = substr(channel, 1, instr(channel, ': ') - 1),
  rejection = substr(channel, instr(channel, ': ') + 2), channel = NULL WHERE state = 6;
-- Until now, the owner was an empty text (the peer), 'turn', or the key of a command.
ALTER TABLE lock RENAME COLUMN bound TO owner;
ALTER TABLE lock RENAME COLUMN rel TO repo_path;
ALTER TABLE lock RENAME COLUMN everywhere TO all_worktrees;
ALTER TABLE lock RENAME COLUMN taken TO granted;
UPDATE lock SET owner = CASE owner WHEN '' THEN 'peer' WHEN 'turn' THEN 'turn' ELSE 'command:' || owner END;
