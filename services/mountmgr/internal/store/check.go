package store

// checkKey is what Check writes.
const checkKey = "checked"

// Check fails when the store cannot be written to. It waits for the disk.
func (s *Store) Check() error { return s.put(metaBucket, checkKey, nil) }
