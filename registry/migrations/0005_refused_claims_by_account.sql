-- Refusals are counted for each code and account, so that who knows the code alone keeps nobody
-- else from claiming. NULL: counted before this, for the code alone.
ALTER TABLE refused_claims ADD COLUMN account TEXT;
