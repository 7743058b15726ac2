-- The entry of the shared state whose value an event shows. When the entry is deleted, its events can be found by this
-- column.
ALTER TABLE event ADD COLUMN state_key TEXT;
CREATE INDEX event_state ON event(state_key) WHERE state_key IS NOT NULL;
