package manager

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/juicefs-csi/driver/libs/volume"
)

// formatValid is how long a file system that was formatted is not formatted
// again with the same settings: that is half of the time of a mount that has a
// spare mount pod. After it, what somebody else has changed is set again.
const formatValid = time.Hour

// formats remembers which file systems were formatted with which settings. It is
// safe for concurrent use.
type formats struct {
	mu   sync.Mutex
	done map[[sha256.Size]byte]time.Time
}

// pending are the settings without what was done already, and whether something
// was left out.
func (f *formats) pending(settings volume.Settings) (volume.Settings, bool) {
	key, ok := formatKey(settings)
	f.mu.Lock()
	last := f.done[key]
	f.mu.Unlock()
	if !ok || last.IsZero() || time.Since(last) > formatValid {
		return settings, false
	}
	settings.Stages = slices.DeleteFunc(slices.Clone(settings.Stages), isFormat)
	return settings, true
}

// note remembers that a client serves with the settings.
func (f *formats) note(settings volume.Settings) {
	key, ok := formatKey(settings)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done == nil {
		f.done = make(map[[sha256.Size]byte]time.Time)
	}
	for known, at := range f.done {
		if time.Since(at) > formatValid {
			delete(f.done, known)
		}
	}
	f.done[key] = time.Now()
}

// forget has the file system formatted the next time.
func (f *formats) forget(settings volume.Settings) {
	key, _ := formatKey(settings)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.done, key)
}

func isFormat(stage volume.Stage) bool { return stage.Name == volume.StageFormat }

// formatKey names the command, with credentials and files; false when there is
// none. Encoding plain data cannot fail.
func formatKey(settings volume.Settings) ([sha256.Size]byte, bool) {
	at := slices.IndexFunc(settings.Stages, isFormat)
	if at < 0 {
		return [sha256.Size]byte{}, false
	}
	raw, err := json.Marshal([]any{settings.Pod.Image, settings.Stages[at].Argv, settings.Env, settings.Files})
	return sha256.Sum256(raw), err == nil
}
