package processhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

// note is what is kept of a process so that the next mount manager knows it. The
// process cannot see it.
type note struct {
	Name    string           `json:"name"`
	MountID string           `json:"mountID"`
	Process launcher.Process `json:"process"`
}

// socketDirName is the directory that the process sees, too.
const socketDirName = "run"

func (h *Host) path(id string) string      { return filepath.Join(h.Dir, id) }
func (h *Host) socketDir(id string) string { return filepath.Join(h.Dir, id, socketDirName) }
func (h *Host) rootDir(id string) string   { return filepath.Join(h.Dir, id, "root") }
func (h *Host) noteFile(id string) string  { return filepath.Join(h.Dir, id, "process.json") }
func (h *Host) logFile(id string) string   { return filepath.Join(h.Dir, id, socketDirName, logName) }

// socketPath is relative to the directory of all processes.
func socketPath(id string) string { return filepath.Join(id, socketDirName, launcher.SocketName) }

// writeNote replaces the note at once.
func (h *Host) writeNote(id string, n note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode note of process: %w", err)
	}
	temporary := h.noteFile(id) + ".new"
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return fmt.Errorf("write note of process: %w", err)
	}
	if err := os.Rename(temporary, h.noteFile(id)); err != nil {
		return fmt.Errorf("write note of process: %w", err)
	}
	return nil
}

func (h *Host) readNote(id string) (note, error) {
	text, err := os.ReadFile(h.noteFile(id))
	if err != nil {
		return note{}, fmt.Errorf("read note of process: %w", err)
	}
	var n note
	if err := json.Unmarshal(text, &n); err != nil {
		return note{}, fmt.Errorf("read %s: %w", h.noteFile(id), err)
	}
	return n, nil
}

// list returns the ids of all processes that have a directory.
func (h *Host) list() ([]string, error) {
	entries, err := os.ReadDir(h.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var ids []string
	for _, entry := range entries {
		if checkID(entry.Name()) == nil {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}

// find returns the id of the process with a name; empty for none.
func (h *Host) find(name string) string {
	ids, _ := h.list() // Without a directory there is none.
	for _, id := range ids {
		if n, err := h.readNote(id); err == nil && n.Name == name {
			return id
		}
	}
	return ""
}
