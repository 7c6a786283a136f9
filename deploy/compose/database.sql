-- The platform's database has this table, or a view of this name; here, something to try.
CREATE TABLE diagnoses (id bigint PRIMARY KEY, patient_id bigint NOT NULL);
INSERT INTO diagnoses VALUES (123, 100), (124, 101);
