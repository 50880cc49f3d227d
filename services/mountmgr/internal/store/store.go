// Package store keeps the mount manager's records on the node's disk, and the
// secrets of live mounts on a tmpfs beside it.
package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// schemaVersion is the version of the records that this release writes.
const schemaVersion = 2

// openTimeout bounds the wait for the file lock of a predecessor that is
// still ending.
const openTimeout = 10 * time.Second

// The buckets of the database.
const (
	metaBucket     = "meta"
	mountsBucket   = "mounts"
	settingsBucket = "settings"
	cleanupsBucket = "cleanups"
	versionKey     = "version"
	sparesBucket   = "spares"
	shapesBucket   = "shapes"
	// unsettledBucket maps the names of pods that were spares to mounts.
	unsettledBucket = "unsettled"
)

func buckets() []string {
	return []string{
		metaBucket, mountsBucket, settingsBucket, cleanupsBucket, sparesBucket, shapesBucket, unsettledBucket,
	}
}

// Store is the database of records. It is safe for concurrent use.
type Store struct {
	db *bolt.DB
	// step is nil but in tests.
	step step

	mu sync.Mutex
	// queue are the writes that wait for the next transaction.
	queue []*write
	// writing tells that somebody commits the queue.
	writing bool
}

// Open opens or makes the database "mounts.db" in dir, waiting up to 10 s for
// another process to let go of it. A database of a newer release is refused
// with errdefs.ErrFailedPrecondition and left as it is.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	path := filepath.Join(dir, "mounts.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openTimeout})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	if err := migrate(db); err != nil {
		return nil, fmt.Errorf("prepare store %s: %w", path, joinClose(err, db))
	}
	return &Store{db: db}, nil
}

func joinClose(err error, db *bolt.DB) error {
	if closeErr := db.Close(); closeErr != nil {
		return fmt.Errorf("%w (and close: %w)", err, closeErr)
	}
	return err
}

// Close waits for running transactions and lets go of the file.
func (s *Store) Close() error { return s.db.Close() }

// PutMount writes the record; it is on disk when PutMount returns.
func (s *Store) PutMount(r Record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode mount %s: %w", r.ID, err)
	}
	return s.put(mountsBucket, r.ID, raw)
}

// DeleteMount removes the record. An unknown id is no error.
func (s *Store) DeleteMount(id string) error {
	return s.delete(mountsBucket, id)
}

// Mounts returns all records in the order of their ids.
func (s *Store) Mounts() ([]Record, error) {
	var records []Record
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(mountsBucket)).ForEach(func(id, raw []byte) error {
			var r Record
			if err := json.Unmarshal(raw, &r); err != nil {
				return fmt.Errorf("decode mount %s: %w", id, err)
			}
			records = append(records, r)
			return nil
		})
	})
	return records, err
}

// PutInitRequest remembers the settings bytes that connections of key have.
// They are a function of kernel, client and options, the same for all mounts
// of the key.
func (s *Store) PutInitRequest(key string, request []byte) error {
	return s.put(settingsBucket, key, request)
}

// InitRequest returns what PutInitRequest remembered, nil when there is none.
func (s *Store) InitRequest(key string) ([]byte, error) {
	var found []byte
	err := s.db.View(func(tx *bolt.Tx) error {
		found = append(found, tx.Bucket([]byte(settingsBucket)).Get([]byte(key))...)
		return nil
	})
	return found, err
}
