-- The audit of one device, of one account, and the import that a device came in with: entries of
-- imports name no device, and have the moment of the devices that they enrolled.
CREATE INDEX audit_by_device ON audit (device) WHERE device IS NOT NULL;
CREATE INDEX audit_by_account ON audit (account) WHERE account IS NOT NULL;
CREATE INDEX audit_of_many ON audit (at) WHERE device IS NULL;
