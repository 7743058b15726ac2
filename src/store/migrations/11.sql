-- Two indexes of the events cost each event two more pages in the log. A list within the table replaces the index of
-- the events with values of an entry, and a table with one row for many events replaces the index of the types.
ALTER TABLE state ADD COLUMN last_event INTEGER;
ALTER TABLE event ADD COLUMN earlier INTEGER;
UPDATE event SET earlier = found.earlier FROM (
  SELECT seq, lag(seq) OVER (PARTITION BY state_key ORDER BY seq) AS earlier FROM event
  WHERE state_key IS NOT NULL) AS found
  WHERE event.seq = found.seq AND found.earlier IS NOT NULL;
UPDATE state SET last_event = (SELECT max(seq) FROM event
  WHERE state_key = length(CAST(namespace AS BLOB)) || ' ' || namespace || key);
DROP INDEX event_type;
DROP INDEX event_state;
ALTER TABLE event DROP COLUMN state_key;
CREATE TABLE event_block(type TEXT NOT NULL, block INTEGER NOT NULL, PRIMARY KEY (type, block)) WITHOUT ROWID;
CREATE INDEX event_block_number ON event_block(block);
INSERT INTO event_block SELECT DISTINCT type, seq / 64 FROM event;
