-- With these indexes, every frequent query is a search, not a scan. Equal keys of an index are sorted by row
-- number.
CREATE INDEX message_unread ON message(recipient) WHERE state < 2;
CREATE INDEX message_box ON message(recipient);
CREATE INDEX message_pair ON message(recipient, sender);
CREATE INDEX message_sent ON message(sender);
CREATE INDEX message_key ON message(sender, key) WHERE key IS NOT NULL;
CREATE INDEX message_expiry ON message(expires) WHERE expires IS NOT NULL AND state < 2;
CREATE INDEX event_type ON event(type);
CREATE INDEX state_expiry ON state(expires) WHERE expires IS NOT NULL;
