package kernelmount

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// immutable is FS_IMMUTABLE_FL of linux/fs.h.
const immutable = 0x10

// protect makes the directory below a target immutable, so that nothing is
// ever written to the node's disk by whoever sees it for want of the mount.
// File systems and users that cannot do so go without.
func protect(path string) error { return setImmutable(path, true) }

// unprotect makes the directory removable again. One that is gone, or that has
// something mounted on it, is no error.
func unprotect(path string) error { return setImmutable(path, false) }

func setImmutable(path string, wanted bool) error {
	directory, err := openPlaceholder(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTDIR),
		errors.Is(err, unix.ENOSYS): // Linux before 5.6
		return nil
	case err != nil:
		return fmt.Errorf("open directory %s: %w", path, err)
	}
	defer func() { _ = unix.Close(directory) }()
	flags, err := unix.IoctlGetInt(directory, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return nil // This file system has no such attributes.
	}
	changed := flags &^ immutable
	if wanted {
		changed |= immutable
	}
	if changed == flags {
		return nil
	}
	err = unix.IoctlSetPointerInt(directory, unix.FS_IOC_SETFLAGS, changed)
	switch {
	case err == nil, errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP):
		return nil
	case errors.Is(err, unix.EPERM) && wanted:
		return nil // Without CAP_LINUX_IMMUTABLE the directory stays as it is.
	default:
		return fmt.Errorf("change attributes of directory %s: %w", path, err)
	}
}

// openPlaceholder opens the directory itself. What somebody mounts on it is
// refused (EXDEV) instead of opened, which could wait for a client.
func openPlaceholder(path string) (int, error) {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(parent) }()
	return unix.Openat2(parent, filepath.Base(path), &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
}
