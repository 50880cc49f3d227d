package kernelmount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
)

// moveBeneath is MOVE_MOUNT_BENEATH of linux/mount.h, in Linux since 6.5.
const moveBeneath = 0x200

// Attributes are those of a clone beyond what it has from its mount.
type Attributes struct {
	ReadOnly, NoSUID, NoDev, NoExec bool
}

func (a Attributes) bits() uint64 {
	bits := uint64(0)
	for bit, wanted := range map[uint64]bool{
		unix.MOUNT_ATTR_RDONLY: a.ReadOnly, unix.MOUNT_ATTR_NOSUID: a.NoSUID,
		unix.MOUNT_ATTR_NODEV: a.NoDev, unix.MOUNT_ATTR_NOEXEC: a.NoExec,
	} {
		if wanted {
			bits |= bit
		}
	}
	return bits
}

// Clone returns a mount of the directory or file that is open as source, which
// is attached nowhere. No mount event reaches it or leaves it: where it is
// attached to a shared mount it gets peers of its own. The caller owns the
// result.
func Clone(source int, attributes Attributes) (*os.File, error) {
	fd, err := unix.OpenTree(source, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT)
	if err != nil {
		return nil, fmt.Errorf("clone mount: %w", err)
	}
	tree := os.NewFile(uintptr(fd), "mount")
	attr := &unix.MountAttr{Attr_set: attributes.bits(), Propagation: unix.MS_PRIVATE}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr)
	if errors.Is(err, unix.ENOSYS) && attr.Attr_set == 0 {
		err = nil // Linux before 5.12: it shares mount events with its mount.
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set attributes of the clone: %w", err), tree.Close())
	}
	return tree, nil
}

// Restrict gives the mount whose root is open as root these attributes too.
func Restrict(root int, attributes Attributes) error {
	err := unix.MountSetattr(root, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attributes.bits()})
	if err != nil {
		return fmt.Errorf("set attributes of a mount: %w", err)
	}
	return nil
}

// OpenMount opens path, below the open directory root or absolute with
// unix.AT_FDCWD, without opening what is mounted there. It follows no link.
func OpenMount(root int, path string) (*os.File, error) {
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOSYS) && root == unix.AT_FDCWD { // Linux before 5.6; the path is one of ours.
		fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open mount point %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Identity tells which mount an open file is on.
type Identity struct {
	// ID is that of mountinfo.Entry.
	ID    int
	Minor uint32
	// Root is true when the file is the root of the mount.
	Root bool
}

// Identify asks the kernel, and never the file system.
func Identify(fd int) (Identity, error) {
	var stat unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &stat); err != nil {
		return Identity{}, fmt.Errorf("identify a mount: %w", err)
	}
	return Identity{
		ID: int(stat.Mnt_id), Minor: stat.Dev_minor,
		Root: stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
	}, nil
}

// Replace puts tree in the place of the mount whose root is open as old: where
// that is mounted, at any moment the one or the other is visible, and never
// what lies below. proc is the path of a proc file system of this process. It
// fails when old is not mounted any more.
func Replace(tree, old int, proc string) error { return replace(tree, old, proc, true) }

// replace moves tree beneath old and takes old away, together with all that is
// mounted inside it. Where the kernel cannot (Linux before 6.5, mounts that a
// user namespace has locked), it covers old.
func replace(tree, old int, proc string, beneath bool) error {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	err := error(unix.EINVAL)
	if beneath {
		err = unix.MoveMount(tree, "", old, "", flags|moveBeneath)
	}
	switch {
	case err == nil:
		return Detach(old, proc)
	case !errors.Is(err, unix.EINVAL):
		return fmt.Errorf("move a mount beneath another: %w", err)
	}
	if err := unix.MoveMount(tree, "", old, "", flags); err != nil {
		return fmt.Errorf("cover a mount: %w", err)
	}
	return nil
}

// Detach takes away exactly the mount whose root is open as root. One that is
// not mounted any more is no error.
func Detach(root int, proc string) error {
	// By way of the descriptor: at its path may be another one by now.
	path := filepath.Join(proc, "self/fd", strconv.Itoa(root))
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("detach a mount: %w", err)
	}
	return nil
}

// reattach shows the mount at a target that shows one of the previous
// connections. It reports whether it was needed.
func reattach(mountPath string, minor uint32, target string, readOnly bool, previous []uint32) (bool, error) {
	return replaceAt(target, previous, func() (*os.File, error) { return clonePath(mountPath, minor, readOnly) })
}

// replaceAt puts what clone returns in the place of one of the previous
// connections at target, if one is there, and closes it. It reports whether one
// was.
func replaceAt(target string, previous []uint32, clone func() (*os.File, error)) (bool, error) {
	entry, err := mountinfo.ByPath(target)
	if errdefs.IsNotFound(err) || err == nil && (entry.FSType != FSType || !slices.Contains(previous, entry.Minor)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	old, err := OpenMount(unix.AT_FDCWD, target)
	if err != nil {
		return false, err
	}
	defer func() { _ = old.Close() }()
	if found, err := Identify(int(old.Fd())); err != nil || found.ID != entry.ID || !found.Root {
		return false, errors.Join(fmt.Errorf("target %s changes: %w", target, errdefs.ErrUnavailable), err)
	}
	tree, err := clone()
	if err != nil {
		return false, err
	}
	defer func() { _ = tree.Close() }()
	return true, Replace(int(tree.Fd()), int(old.Fd()), "/proc")
}

// clonePath clones the mount of this device at path.
func clonePath(path string, minor uint32, readOnly bool) (*os.File, error) {
	source, err := OpenMount(unix.AT_FDCWD, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = source.Close() }()
	// A directory of the node's disk must not be shown in its place.
	if found, err := Identify(int(source.Fd())); err != nil || found.Minor != minor || !found.Root {
		return nil, errors.Join(fmt.Errorf("%s is not mounted: %w", path, errdefs.ErrUnavailable), err)
	}
	return Clone(int(source.Fd()), Attributes{ReadOnly: readOnly})
}
