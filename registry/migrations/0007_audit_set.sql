-- What an entry's action has set, as JSON: the pins, or the end of a binding. NULL where the action
-- says it all, and in entries from before this.
ALTER TABLE audit ADD COLUMN setting TEXT;
