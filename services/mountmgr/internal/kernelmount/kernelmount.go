// Package kernelmount makes and removes the kernel's side of a mount: the FUSE
// connection, its mount point, and the targets at which applications see it.
// Nothing here waits for a client: no call resolves a path inside a FUSE file
// system.
package kernelmount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/libs/volume"
)

// FSType is the type that a JuiceFS client gives its mounts.
const FSType = "fuse.juicefs"

// connectionsDir is where fusectl shows every connection by its minor number.
const connectionsDir = "/sys/fs/fuse/connections"

// rootMode tells the kernel that the root of the file system is a directory.
const rootMode = "40000"

// Mount makes the directory path and mounts a new FUSE connection there. The
// caller owns the returned descriptor, which has not seen INIT yet: the first
// client takes it for an adoption. It also returns the minor number of the
// mount's device. Nothing is left behind on failure.
func Mount(path string, options volume.KernelMount) (*os.File, uint32, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, 0, fmt.Errorf("make mount point %s: %w", path, err)
	}
	// Not os.OpenFile: it would put the shared file description into
	// non-blocking mode, and clients would see EAGAIN.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open /dev/fuse: %w", err), os.Remove(path))
	}
	file := os.NewFile(uintptr(fd), "/dev/fuse")
	if err := unix.Mount(options.Source, path, FSType, options.Flags, mountData(fd, options)); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("mount %s: %w", path, err), file.Close(), os.Remove(path))
	}
	minor, err := Minor(path)
	if err != nil {
		return nil, 0, errors.Join(err, file.Close(), Remove(path))
	}
	return file, minor, nil
}

// mountData are the options that a JuiceFS client gives mount(2); the client's
// behaviour was compared over 25 option sets.
func mountData(fd int, options volume.KernelMount) string {
	data := []string{"fd=" + strconv.Itoa(fd), "rootmode=" + rootMode, "user_id=0", "group_id=0"}
	if options.DefaultPermissions {
		data = append(data, "default_permissions")
	}
	data = append(data, "allow_other")
	if options.MaxRead > 0 {
		data = append(data, "max_read="+strconv.Itoa(options.MaxRead))
	}
	return strings.Join(data, ",")
}

// Minor returns the device number of the JuiceFS mount at path, without asking
// its client; errdefs.ErrNotFound when nothing is mounted there.
func Minor(path string) (uint32, error) {
	entry, err := mountinfo.ByPath(path)
	if err != nil {
		return 0, fmt.Errorf("find the mount at %s: %w", path, err)
	}
	if entry.FSType != FSType {
		return 0, fmt.Errorf("%s shows a %s file system instead of %s: %w", path, entry.FSType, FSType, errdefs.ErrInternal)
	}
	return entry.Minor, nil
}

// Remove takes away everything that is mounted at path, however deep the
// stack, and then the directory. It succeeds when neither is there.
func Remove(path string) error {
	if err := DetachAll(path); err != nil {
		return err
	}
	if err := unprotect(path); err != nil {
		return err
	}
	// Removes an empty directory only: what lies on the node's disk stays.
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove directory %s: %w", path, err)
	}
	return nil
}

// RemoveUnused is Remove, but detaches only those mounts of which somebody uses
// a file or directory; the others are unmounted.
func RemoveUnused(path string) error {
	for range stackLimit {
		if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
			break // Busy, or none is left: Remove tells.
		}
	}
	return Remove(path)
}

// Uncover takes away other JuiceFS mounts that cover the one of this device at
// path. What it does not know it leaves alone.
func Uncover(path string, minor uint32) error {
	entries, err := mountinfo.ByDevice(0, minor)
	if err != nil {
		return fmt.Errorf("look for a mount at %s: %w", path, err)
	}
	if !slices.ContainsFunc(entries, func(e mountinfo.Entry) bool { return e.Path == path }) {
		return nil
	}
	for range stackLimit {
		entry, err := mountinfo.ByPath(path)
		if err != nil {
			return fmt.Errorf("look for a mount at %s: %w", path, err)
		}
		if entry.FSType != FSType || entry.Minor == minor {
			return nil
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount what covers %s: %w", path, err)
		}
	}
	return nil
}

// stackLimit bounds how many mounts are taken from one path: a limit for a
// caller that stacks faster than we take away.
const stackLimit = 1000

// DetachAll takes away everything that is mounted at path and leaves the directory
// or file.
func DetachAll(path string) error {
	for range stackLimit {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrNotExist):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %s: more than %d mounts are stacked there: %w", path, stackLimit, errdefs.ErrInternal)
}

// Attach shows the mount at target, which is made when missing. A mount of the
// same device that is there already is left as it is, and one of the previous
// devices, whose connections are lost, is replaced without a gap. Nothing is
// left behind on failure. The directory below the mount cannot be written.
func Attach(mountPath string, minor uint32, target string, readOnly bool, previous ...uint32) error {
	if _, err := reattach(mountPath, minor, target, readOnly, previous); err != nil {
		return err
	}
	attached, err := Attached(target, minor)
	if err != nil || attached {
		return err
	}
	// Without it the clone would show a directory of the node's disk.
	if mounted, err := Attached(mountPath, minor); err != nil || !mounted {
		return errors.Join(fmt.Errorf("%s is not mounted: %w", mountPath, errdefs.ErrUnavailable), err)
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return fmt.Errorf("make target %s: %w", target, err)
	}
	err = protect(target)
	if err == nil {
		err = attach(mountPath, minor, target, readOnly)
	}
	if err == nil {
		attached, err = Attached(target, minor)
	}
	if err == nil && !attached {
		err = fmt.Errorf("target %s does not show the mount: %w", target, errdefs.ErrInternal)
	}
	if err != nil {
		return errors.Join(err, Remove(target))
	}
	return nil
}

// AttachTree shows a directory of a mount at target, from a detached clone with
// that directory as its root, as package probe makes it; tree stays the
// caller's. Otherwise it is as Attach.
func AttachTree(tree *os.File, minor uint32, directory, target string, previous ...uint32) error {
	replaced, err := replaceAt(target, previous, func() (*os.File, error) { return tree, nil })
	if err != nil {
		return err
	}
	if !replaced {
		err = attachTree(tree, directory, target)
	}
	if err == nil {
		err = showsDirectory(target, minor, directory)
	}
	if err != nil {
		return errors.Join(err, Remove(target))
	}
	return nil
}

func attachTree(tree *os.File, directory, target string) error {
	if err := os.MkdirAll(target, 0o750); err != nil {
		return fmt.Errorf("make target %s: %w", target, err)
	}
	if err := protect(target); err != nil {
		return err
	}
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach directory %s of the mount to %s: %w", directory, target, err)
	}
	return nil
}

// showsDirectory fails unless the topmost mount at target has this device and
// this directory of it as its root.
func showsDirectory(target string, minor uint32, directory string) error {
	entry, err := mountinfo.ByPath(target)
	if err != nil {
		return fmt.Errorf("look for a mount at %s: %w", target, err)
	}
	if entry.FSType != FSType || entry.Minor != minor || entry.Root != "/"+directory {
		return fmt.Errorf("target %s shows %s of device 0:%d instead of /%s of device 0:%d: %w",
			target, entry.Root, entry.Minor, directory, minor, errdefs.ErrInternal)
	}
	return nil
}

func attach(mountPath string, minor uint32, target string, readOnly bool) error {
	tree, err := clonePath(mountPath, minor, readOnly)
	if err != nil {
		return err
	}
	defer func() { _ = tree.Close() }()
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach the mount to %s: %w", target, err)
	}
	return nil
}

// Shows is Attached, but one of the previous devices is no error: it is about to
// be replaced.
func Shows(target string, minor uint32, previous ...uint32) (bool, error) {
	entry, err := mountinfo.ByPath(target)
	if err == nil && entry.FSType == FSType && slices.Contains(previous, entry.Minor) {
		return false, nil
	}
	return Attached(target, minor)
}

// Attached tells whether the topmost mount at target is a JuiceFS mount of
// this device. Another file system there is an error: it is not ours to cover.
func Attached(target string, minor uint32) (bool, error) {
	entry, err := mountinfo.ByPath(target)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a mount at %s: %w", target, err)
	}
	if entry.FSType == FSType && entry.Minor == minor {
		return true, nil
	}
	return false, fmt.Errorf("target %s shows another file system (%s, device 0:%d): unmount it first: %w",
		target, entry.FSType, entry.Minor, errdefs.ErrAlreadyExists)
}

// Abort ends the connection that is mounted at path: whoever waits for it gets
// an error. It succeeds when path does not show it any more, and does nothing
// then: the number may belong to somebody else's connection already.
func Abort(mountPath string, minor uint32) error {
	if attached, err := Attached(mountPath, minor); err != nil || !attached {
		return nil //nolint:nilerr // Something else is mounted there.
	}
	path := filepath.Join(connectionsDir, strconv.FormatUint(uint64(minor), 10), "abort")
	if err := os.WriteFile(path, []byte("1"), 0o200); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("abort connection %d: %w", minor, err)
	}
	return nil
}

// Waiting returns how many requests of a connection the kernel waits for; 0
// when the connection is gone.
func Waiting(minor uint32) (uint64, error) {
	raw, err := os.ReadFile(filepath.Join(connectionsDir, strconv.FormatUint(uint64(minor), 10), "waiting"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read waiting requests of connection %d: %w", minor, err)
	}
	waiting, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse waiting requests of connection %d: %w", minor, err)
	}
	return waiting, nil
}

// MountConnections makes /sys/fs/fuse/connections readable where the node has
// not done so yet.
func MountConnections() error {
	if entries, err := os.ReadDir(connectionsDir); err == nil && len(entries) > 0 {
		return nil
	}
	err := unix.Mount("fusectl", connectionsDir, "fusectl", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount fusectl at %s: %w", connectionsDir, err)
	}
	return nil
}
