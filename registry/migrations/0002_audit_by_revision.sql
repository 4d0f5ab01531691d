-- Who made the newest change of a device, and why: looked up by its revision.
CREATE INDEX audit_by_revision ON audit (last_revision) WHERE last_revision IS NOT NULL;
