// Package mountinfo reads which mounts this process sees, from what the kernel
// tells about them. It never touches a mounted file system, so a file system
// that does not answer cannot block it.
package mountinfo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
)

// Entry is one mount; proc_pid_mountinfo(5) has the meaning of its fields.
type Entry struct {
	// ID is unique among the present mounts; the kernel uses it again later.
	ID int
	// Parent is the ID of the mount that this one is attached to.
	Parent int
	// Path is where it is attached, below the root of this process.
	Path string
	// Root is the directory of the file system that is visible at Path.
	Root string
	// Source is the file system's own word: a device, "JuiceFS:name".
	Source string
	// FSType is the type with its subtype: "fuse.juicefs".
	FSType string
	// Major and Minor are the device number of the file system.
	Major, Minor uint32
	// Options belong to this mount, SuperOptions to the file system.
	Options, SuperOptions []string
}

// ReadOnly says whether nothing can be written through this mount.
func (e Entry) ReadOnly() bool {
	return slices.Contains(e.Options, "ro") || slices.Contains(e.SuperOptions, "ro")
}

// All returns every mount.
func All() ([]Entry, error) { return read(nil) }

// ByPath returns the mount that is visible at path, which must be absolute,
// clean and without symbolic links: the topmost one of several.
// errdefs.ErrNotFound when path is no mount point.
//
// Where the kernel can (Linux 6.14), it tells about this mount alone: the cost
// does not grow with the number of mounts.
func ByPath(path string) (Entry, error) {
	entry, err := visible(path)
	if errors.Is(err, errTable) {
		entry, err = inTable(path)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("find the mount at %s: %w", path, err)
	}
	return entry, nil
}

func inTable(path string) (Entry, error) {
	entries, err := read(func(info *mountinfo.Info) (skip, stop bool) { return info.Mountpoint != path, false })
	if err != nil {
		return Entry{}, err
	}
	entry, ok := topmost(entries)
	if !ok {
		return Entry{}, errdefs.ErrNotFound
	}
	return entry, nil
}

// Below returns the mounts at directory and below it; directory is as for
// ByPath.
func Below(directory string) ([]Entry, error) {
	return read(mountinfo.PrefixFilter(filepath.Clean(directory)))
}

// ByDevice returns the mounts of one file system. That of FUSE and other file
// systems without a disk has major number 0.
func ByDevice(major, minor uint32) ([]Entry, error) {
	return read(func(info *mountinfo.Info) (skip, stop bool) {
		return uint32(info.Major) != major || uint32(info.Minor) != minor, false
	})
}

func read(filter mountinfo.FilterFunc) ([]Entry, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer file.Close()
	return parse(file, filter)
}

// Parse reads mounts from a mountinfo file of /proc that the caller has opened:
// that of another process, whose paths are below the root of that process.
func Parse(source io.Reader) ([]Entry, error) { return parse(source, nil) }

func parse(source io.Reader, filter mountinfo.FilterFunc) ([]Entry, error) {
	infos, err := mountinfo.GetMountsFromReader(source, filter)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	entries := make([]Entry, 0, len(infos))
	for _, info := range infos {
		entries = append(entries, Entry{
			ID: info.ID, Parent: info.Parent,
			Path: info.Mountpoint, Root: info.Root, Source: info.Source, FSType: info.FSType,
			Major: uint32(info.Major), Minor: uint32(info.Minor),
			Options: strings.Split(info.Options, ","), SuperOptions: strings.Split(info.VFSOptions, ","),
		})
	}
	return entries, nil
}

// topmost returns that of the mounts of one path which no other one is attached
// to. Their order does not say it: a mount can be moved beneath another.
func topmost(entries []Entry) (Entry, bool) {
	for _, entry := range slices.Backward(entries) {
		covered := slices.ContainsFunc(entries, func(other Entry) bool {
			return other.Parent == entry.ID && other.ID != entry.ID
		})
		if !covered {
			return entry, true
		}
	}
	return Entry{}, false
}
