-- Which entry of the shared state an event shows a value of. When the entry is deleted, this finds them.
ALTER TABLE event ADD COLUMN state_key TEXT;
CREATE INDEX event_state ON event(state_key) WHERE state_key IS NOT NULL;
