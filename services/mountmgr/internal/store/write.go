package store

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// write is one change that waits to be committed.
type write struct {
	change func(*bolt.Tx) error
	done   chan error
}

// commit returns when the change is on disk. Changes that come while another
// transaction is being written share the next one: a node that publishes many
// volumes at once waits for few flushes of the disk, and a single change waits
// for nobody.
func (s *Store) commit(change func(*bolt.Tx) error) error {
	s.step.take()
	own := &write{change: change, done: make(chan error, 1)}
	s.mu.Lock()
	s.queue = append(s.queue, own)
	leads := !s.writing
	s.writing = true
	s.mu.Unlock()
	if leads && s.commitQueue() {
		go s.commitRest() // Whoever leads waits for its own change only.
	}
	err := <-own.done
	s.step.take()
	return err
}

// step is called where a mount manager may die; nil but in tests.
type step func()

func (s step) take() {
	if s != nil {
		s()
	}
}

// Observe calls step before each write and again when it is on disk, in the
// goroutine of the writer: a test can end that there. It must be called before
// the store is used.
func (s *Store) Observe(step func()) { s.step = step }

// Observe is as that of Store.
func (s *Secrets) Observe(step func()) { s.step = step }

func (s *Store) commitRest() {
	for s.commitQueue() {
	}
}

// commitQueue commits what waits and tells whether more has come meanwhile.
func (s *Store) commitQueue() bool {
	s.mu.Lock()
	batch := s.queue
	s.queue = nil
	s.mu.Unlock()
	s.commitBatch(batch)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = len(s.queue) > 0
	return s.writing
}

// commitBatch commits all in one transaction, or each in its own when that
// fails: a change that is refused must not take others with it.
func (s *Store) commitBatch(batch []*write) {
	err := s.db.Update(func(tx *bolt.Tx) error {
		var failed error
		for _, each := range batch {
			failed = errors.Join(failed, each.change(tx))
		}
		return failed
	})
	for _, each := range batch {
		if err != nil && len(batch) > 1 {
			each.done <- s.db.Update(each.change)
			continue
		}
		each.done <- err
	}
}

func (s *Store) put(bucket, key string, value []byte) error {
	err := s.commit(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).Put([]byte(key), value)
	})
	if err != nil {
		return fmt.Errorf("write %s/%s: %w", bucket, key, err)
	}
	return nil
}

// delete succeeds for a key that is not there.
func (s *Store) delete(bucket, key string) error {
	err := s.commit(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).Delete([]byte(key))
	})
	if err != nil {
		return fmt.Errorf("delete %s/%s: %w", bucket, key, err)
	}
	return nil
}
