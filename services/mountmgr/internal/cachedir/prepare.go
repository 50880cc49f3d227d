package cachedir

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/volume"
)

const (
	// parentMode is that of a cache directory, which others pass through.
	parentMode = 0o755
	// ownMode is that of the part of one user.
	ownMode = 0o700
)

// Roots are the views of the host's directories.
type Roots struct {
	// Own are host directories that this process sees at the same paths.
	Own []string
	// Host is where it sees the host's root directory, for all others.
	Host string
	// Avoid are directories below which are mounts: opening one could wait for
	// this process itself.
	Avoid []string
}

// Prepare makes the cache directories of a mount pod and gives them to its
// user; pods of root need none. Symbolic links are followed within the host's
// root only, and not at the last element. Directories that are wrong fail with
// errdefs.ErrInvalidArgument, and errdefs.ErrFailedPrecondition when the host
// has something else in their place.
func (r Roots) Prepare(shape volume.PodShape) error {
	user := shape.UID()
	if user == 0 {
		return nil
	}
	group := int64(0)
	if shape.RunAsGroup != nil {
		group = *shape.RunAsGroup
	}
	var errs []error
	for _, dir := range shape.CacheDirs {
		if err := r.prepare(dir, user, group); err != nil {
			errs = append(errs, fmt.Errorf("prepare cache directory %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

func (r Roots) prepare(dir string, user, group int64) error {
	parent, name := path.Split(dir)
	parent = path.Clean(parent)
	switch {
	case !path.IsAbs(dir) || path.Clean(dir) != dir || volume.UserCacheDir(parent, user) != dir:
		return fmt.Errorf("not a directory of user %d: %w", user, errdefs.ErrInvalidArgument)
	case isBelowAny(parent, r.Avoid):
		return fmt.Errorf("a cache cannot be where volumes are mounted: %w", errdefs.ErrInvalidArgument)
	}
	above, err := makeParent(r.of(parent), parent)
	if err != nil {
		return err
	}
	defer above.Close()
	return own(above, name, user, group)
}

// of is where the directory is looked for.
func (r Roots) of(directory string) string {
	if r.Host == "" || isBelowAny(directory, r.Own) {
		return "/"
	}
	return r.Host
}

func makeParent(root, parent string) (*os.File, error) {
	top, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return pathrs.MkdirAllHandle(top, parent, parentMode)
}

// own makes the directory and gives it to its user, by its descriptor: nobody
// can put another file in its place.
func own(parent *os.File, name string, user, group int64) error {
	err := unix.Mkdirat(int(parent.Fd()), name, ownMode)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make it: %w", err)
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open it: %w (%w)", err, errdefs.ErrFailedPrecondition)
	}
	made := os.NewFile(uintptr(fd), name)
	defer made.Close()
	if err := made.Chown(int(user), int(group)); err != nil {
		return err
	}
	return made.Chmod(ownMode)
}

func isBelowAny(dir string, parents []string) bool {
	for _, parent := range parents {
		if dir == parent || strings.HasPrefix(dir, strings.TrimSuffix(parent, "/")+"/") {
			return true
		}
	}
	return false
}
