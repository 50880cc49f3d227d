package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// foreign makes mounts that have nothing to do with the driver, or takes them
// away again.
func foreign(verb, dir, number string) error {
	count, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	switch verb {
	case "mounts":
		return mountMany(dir, count)
	case "unmount":
		return unmountMany(dir, count)
	}
	return fmt.Errorf("unknown verb %s", verb)
}

func mountMany(dir string, count int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range count {
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/var/tmp", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", path, err)
		}
	}
	return nil
}

func unmountMany(dir string, count int) error {
	for i := range count {
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}
