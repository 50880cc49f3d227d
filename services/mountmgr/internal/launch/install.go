package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Program is the file name under which Install puts the program.
const Program = "jfs-launch"

// Install puts a copy of executable into directory as an executable file of
// everybody's, at once: who runs an earlier copy keeps it, and nobody sees half
// a file.
func Install(executable, directory string) error {
	if err := install(executable, directory); err != nil {
		return fmt.Errorf("install %s: %w", filepath.Join(directory, Program), err)
	}
	return nil
}

func install(executable, directory string) error {
	source, err := os.Open(executable)
	if err != nil {
		return err
	}
	defer source.Close()
	// Mount pods of any user run what is in it.
	if err := os.MkdirAll(directory, 0o755); err != nil { //nolint:gosec // see above
		return err
	}
	temporary, err := os.CreateTemp(directory, "."+Program+"-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(temporary, source)
	err = errors.Join(err, temporary.Chmod(0o755), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), filepath.Join(directory, Program))
	}
	if err != nil {
		os.Remove(temporary.Name()) //nolint:errcheck // the first error counts
	}
	return err
}
