-- What lists of devices are read by: each of class and state, in the order of the device, with the
-- other in the index too, so that what does not fit is passed over without reading its row.
CREATE INDEX devices_by_class ON devices (class, device, state);
DROP INDEX devices_by_state;
CREATE INDEX devices_by_state ON devices (state, device, class);
