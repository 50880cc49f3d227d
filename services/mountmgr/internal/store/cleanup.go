package store

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Cleanup is the removal of cached blocks that is due because the last mount of
// a volume is gone.
type Cleanup struct {
	// ID is that of the mount.
	ID             string `json:"id"`
	UniqueID       string `json:"uniqueID"`
	FileSystemUUID string `json:"fileSystemUUID"`
	// Directories are host directories of caches.
	Directories []string  `json:"directories"`
	Since       time.Time `json:"since"`
}

// PutCleanup writes the clean-up; it is on disk when PutCleanup returns.
func (s *Store) PutCleanup(c Cleanup) error {
	raw, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode clean-up %s: %w", c.ID, err)
	}
	return s.put(cleanupsBucket, c.ID, raw)
}

// DeleteCleanup removes the clean-up. An unknown id is no error.
func (s *Store) DeleteCleanup(id string) error { return s.delete(cleanupsBucket, id) }

// Cleanups returns all clean-ups in the order of their ids.
func (s *Store) Cleanups() ([]Cleanup, error) {
	var cleanups []Cleanup
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(cleanupsBucket)).ForEach(func(id, raw []byte) error {
			var c Cleanup
			if err := json.Unmarshal(raw, &c); err != nil {
				return fmt.Errorf("decode clean-up %s: %w", id, err)
			}
			cleanups = append(cleanups, c)
			return nil
		})
	})
	return cleanups, err
}

// PodOfTarget is the uid of the pod that a target path of kubelet belongs to:
// <kubelet>/pods/<uid>/volumes/...; empty when the path has another form.
func PodOfTarget(target string) string {
	before, _, found := strings.Cut(path.Clean(target), "/volumes/")
	if !found || path.Base(path.Dir(before)) != "pods" {
		return ""
	}
	return path.Base(before)
}
