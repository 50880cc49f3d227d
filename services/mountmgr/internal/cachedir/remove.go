// Package cachedir prepares directories of the host for the caches of JuiceFS
// clients, and removes cached blocks from them. The directories are written by
// mount pods, which nobody trusts: nothing outside of a cache directory is ever
// reached through them.
package cachedir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// chunks is where below its directory a client keeps blocks that the object
// storage has as well. Its neighbour "rawstaging" holds blocks that are not
// uploaded yet: the only copy of what applications have written.
const chunks = "raw/chunks"

// batch is how many entries of a directory are read at a time.
const batch = 256

// RemoveChunks removes the cached blocks of the file system uuid below the
// cache directory of the host.
// It goes on where an earlier call was stopped: by ctx, whose error it returns
// then. What is not there is no error. errdefs.ErrInvalidArgument for a uuid
// that is none.
func (r Roots) RemoveChunks(ctx context.Context, directory, uuid string) error {
	if !regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]*$`).MatchString(uuid) {
		return fmt.Errorf("%q is no uuid of a file system: %w", uuid, errdefs.ErrInvalidArgument)
	}
	root, err := openChunks(r.of(directory), directory, uuid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cache directory %s: %w", directory, err)
	}
	defer func() { _ = root.Close() }()
	if err := removeBelow(ctx, root, ".", 2); err != nil {
		return fmt.Errorf("remove the cached blocks in %s: %w", directory, err)
	}
	return nil
}

// openChunks follows symbolic links of the host on the way to the cache
// directory, as kubelet does when it mounts it into a pod, and none below it.
func openChunks(hostRoot, directory, uuid string) (*os.Root, error) {
	host, err := unix.Open(hostRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", hostRoot, err)
	}
	defer unix.Close(host) //nolint:errcheck // O_PATH
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	cache, err := unix.Openat2(host, strings.TrimPrefix(path.Clean(directory), "/"), &unix.OpenHow{
		Flags: flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(cache) //nolint:errcheck // O_PATH
	found, err := unix.Openat2(cache, path.Join(uuid, chunks), &unix.OpenHow{
		Flags: flags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(found) //nolint:errcheck // O_PATH
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", found))
}

// removeBelow removes what is in directory, in pieces between which ctx is
// looked at: directories of depth further levels are emptied first.
func removeBelow(ctx context.Context, root *os.Root, directory string, depth int) error {
	for {
		entries, err := list(root, directory)
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, entry := range entries {
			if err := remove(ctx, root, path.Join(directory, entry.Name()), entry.IsDir(), depth); err != nil {
				return err
			}
		}
	}
}

func remove(ctx context.Context, root *os.Root, name string, isDir bool, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if isDir && depth > 0 {
		if err := removeBelow(ctx, root, name, depth-1); err != nil {
			return err
		}
	}
	return root.RemoveAll(name)
}

func list(root *os.Root, directory string) ([]fs.DirEntry, error) {
	opened, err := root.Open(directory)
	if err != nil {
		return nil, err
	}
	defer func() { _ = opened.Close() }()
	entries, err := opened.ReadDir(batch)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return entries, err
}
