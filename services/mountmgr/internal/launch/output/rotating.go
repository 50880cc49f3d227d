package output

import (
	"errors"
	"os"
	"sync"
)

// Rotating is a log file that is renamed to PATH.1 when it is full, so that the
// two together are bounded. It is safe for concurrent use.
type Rotating struct {
	path  string
	limit int64

	mutex sync.Mutex
	file  *os.File
	size  int64
}

// OpenRotating appends to the file at path; limit is the size of one file in
// bytes.
func OpenRotating(path string, limit int64) (*Rotating, error) {
	r := &Rotating{path: path, limit: limit}
	return r, r.open()
}

func (r *Rotating) open() error {
	file, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	r.file, r.size = file, info.Size()
	return nil
}

// Write writes one record.
func (r *Rotating) Write(record []byte) (int, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.size > 0 && r.size+int64(len(record)) > r.limit {
		if err := r.rotate(); err != nil {
			return 0, err
		}
	}
	count, err := r.file.Write(record)
	r.size += int64(count)
	return count, err
}

func (r *Rotating) rotate() error {
	if err := os.Rename(r.path, r.path+".1"); err != nil {
		return err
	}
	full := r.file
	if err := r.open(); err != nil {
		return err
	}
	return full.Close()
}
