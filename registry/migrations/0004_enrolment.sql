-- SHA-256 of the line that the device was enrolled with, in its canonical form, so that the same
-- line is known again whatever became of the device. NULL where it was enrolled before this.
ALTER TABLE devices ADD COLUMN enrolment BLOB CHECK (length(enrolment) = 32);
