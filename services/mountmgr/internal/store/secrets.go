package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Secrets keeps the publish Secret of each live mount, so that a mount can be
// made again although nobody publishes it again, and for moments the state of
// a client between two. They live as long as the
// mounts do, and no longer: in a tmpfs, which ends with the kernel's boot.
type Secrets struct {
	dir string
	// step is nil but in tests.
	step step
}

// OpenSecrets uses dir, which must be on a tmpfs so that no secret ever
// reaches a disk; it is made when missing, with mode 0700.
func OpenSecrets(dir string) (*Secrets, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make secrets directory: %w", err)
	}
	var info unix.Statfs_t
	if err := unix.Statfs(dir, &info); err != nil {
		return nil, fmt.Errorf("statfs %s: %w", dir, err)
	}
	if info.Type != unix.TMPFS_MAGIC && info.Type != unix.RAMFS_MAGIC {
		return nil, fmt.Errorf("%s is not on a tmpfs: secrets would reach the disk; use a directory below /run", dir)
	}
	return &Secrets{dir: dir}, nil
}

// Put stores the Secret of a mount, atomically, readable by root only.
func (s *Secrets) Put(mountID string, secret map[string]string) error {
	raw, err := json.Marshal(secret)
	if err != nil {
		return fmt.Errorf("encode secret of mount %s: %w", mountID, err)
	}
	defer s.step.take()
	if err := writeFile(s.path(mountID), raw); err != nil {
		return fmt.Errorf("store secret of mount %s: %w", mountID, err)
	}
	return nil
}

// writeFile replaces a file at once.
func writeFile(path string, content []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// Get returns the Secret of a mount; fs.ErrNotExist when there is none.
func (s *Secrets) Get(mountID string) (map[string]string, error) {
	raw, err := os.ReadFile(s.path(mountID))
	if err != nil {
		return nil, fmt.Errorf("read secret of mount %s: %w", mountID, err)
	}
	var secret map[string]string
	if err := json.Unmarshal(raw, &secret); err != nil {
		return nil, fmt.Errorf("decode secret of mount %s: %w", mountID, err)
	}
	return secret, nil
}

// Delete forgets the Secret of a mount. An unknown mount is no error.
func (s *Secrets) Delete(mountID string) error {
	defer s.step.take()
	if err := os.Remove(s.path(mountID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete secret of mount %s: %w", mountID, err)
	}
	return nil
}

// PutState stores what a client has left of its open files while nobody serves
// them: should the mount manager die now, the next one still has it.
func (s *Secrets) PutState(mountID string, state []byte) error {
	defer s.step.take()
	if err := writeFile(s.statePath(mountID), state); err != nil {
		return fmt.Errorf("store state of mount %s: %w", mountID, err)
	}
	return nil
}

// State returns what PutState stored, nil when there is nothing.
func (s *Secrets) State(mountID string) ([]byte, error) {
	state, err := os.ReadFile(s.statePath(mountID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state of mount %s: %w", mountID, err)
	}
	return state, nil
}

// DeleteState forgets the state of a mount, because a client has taken it up.
func (s *Secrets) DeleteState(mountID string) error {
	defer s.step.take()
	if err := os.Remove(s.statePath(mountID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete state of mount %s: %w", mountID, err)
	}
	return nil
}

// Retain deletes the Secrets of all mounts but those given.
func (s *Secrets) Retain(mountIDs map[string]bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("list secrets: %w", err)
	}
	var failed error
	for _, entry := range entries {
		id, _, _ := strings.Cut(entry.Name(), ".")
		if !mountIDs[id] {
			failed = errors.Join(failed, s.Delete(id), s.DeleteState(id))
		}
	}
	return failed
}

func (s *Secrets) path(mountID string) string { return filepath.Join(s.dir, mountID) }

func (s *Secrets) statePath(mountID string) string { return s.path(mountID) + ".state" }
