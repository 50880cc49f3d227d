package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killTimeout bounds the wait for killed processes to end.
const killTimeout = 20 * time.Second

// removeRemains takes away everything of a cluster, whatever state it is in.
// What belongs to it is known by pid files, by namespaces and by cgroups,
// never by program names.
func removeRemains(ctx context.Context, l layout, say *reporter) error {
	machines, err := l.machines()
	if err != nil {
		return err
	}
	owner, linked := hostLinkOwner()
	ours := linked && owner == l.dir
	if _, err := os.Stat(l.dir); errors.Is(err, fs.ErrNotExist) && !ours {
		return nil
	}
	say.printf("removing the cluster in %s", l.dir)
	if err := l.killDaemons(); err != nil {
		return err
	}
	for _, m := range machines {
		if err := m.clear(ctx); err != nil {
			return err
		}
	}
	if err := l.removeHostLink(); err != nil {
		return err
	}
	if err := l.unmountBelow(); err != nil {
		return err
	}
	if err := removeCgroups(l.cgroup()); err != nil {
		return err
	}
	say.printf("removed")
	return l.removeFiles()
}

// removeFiles removes the state directory, and the mount points that were
// made for the nodes unless somebody uses them by now.
func (l layout) removeFiles() error {
	if c, err := open(l); err == nil {
		removeEmptyDirs(c.state.CreatedDirs)
	}
	return removeTree(l.dir)
}

// machines lists what has a directory of pins.
func (l layout) machines() ([]machine, error) {
	entries, err := os.ReadDir(l.path("ns"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	var list []machine
	for _, entry := range entries {
		list = append(list, l.machine(entry.Name()))
	}
	return list, nil
}

// killDaemons kills all daemons before anything else, so that nothing new is
// started or mounted meanwhile.
func (l layout) killDaemons() error {
	files, err := filepath.Glob(l.path("pids", "*.json"))
	if err != nil {
		return fmt.Errorf("list pid files: %w", err)
	}
	var faults []error
	for _, file := range files {
		p, err := readProcess(file)
		if err != nil {
			continue // half written: the process is found by its namespaces
		}
		faults = append(faults, p.signal(unix.SIGKILL))
	}
	return errors.Join(faults...)
}

// clear kills all processes of a machine, unmounts its mounts and gives up
// its namespaces. The private directories keep their content.
func (m machine) clear(ctx context.Context) error {
	if err := m.killAll(ctx); err != nil {
		return err
	}
	ids := m.ids()
	if _, ok := ids["mnt"]; ok {
		if err := m.enter([]string{"mnt"}, unmountPrivate); err != nil {
			return err
		}
	}
	if _, ok := ids["net"]; ok {
		if err := m.enter([]string{"net"}, removeLinks); err != nil {
			return err
		}
	}
	for _, kind := range namespaceKinds() {
		if err := unmountAll(m.pin(kind.file)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(m.dir); err != nil {
		return fmt.Errorf("remove pins of %s: %w", m.name, err)
	}
	return nil
}

// killAll kills the machine's processes, again until none is left: a process
// may fork while it is being looked for.
func (m machine) killAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	ids := m.ids()
	var left []int
	err := poll(ctx, 30*time.Millisecond, func() (bool, error) {
		var err error
		if left, err = m.members(ids); err != nil || len(left) == 0 {
			return err == nil, err
		}
		tables := make([]string, 0, len(left))
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
			tables = append(tables, fmt.Sprintf("/proc/%d/mountinfo", pid))
		}
		return false, m.abortFuse(ids, tables)
	})
	if err != nil {
		return fmt.Errorf("kill processes of %s (left: %v): %w", m.name, left, err)
	}
	return m.abortFuse(ids, nil)
}

// abortFuse aborts the FUSE connections in the machine's mount namespace and
// in further mount tables.
func (m machine) abortFuse(ids map[string]namespaceID, tables []string) error {
	if _, ok := ids["mnt"]; !ok {
		return nil
	}
	return m.withMountTable(func(table string) error {
		return abortFuse(append(slices.Clone(tables), table))
	})
}

// withMountTable calls fn, outside of the machine, with the path of a file
// that shows the machine's mounts.
func (m machine) withMountTable(fn func(table string) error) error {
	return m.enter([]string{"mnt"}, func() error {
		table := fmt.Sprintf("/proc/%d/task/%d/mountinfo", os.Getpid(), unix.Gettid())
		return elsewhere(func() error { return fn(table) })
	})
}

// members returns the living processes that are in one of the machine's
// namespaces or in its cgroups, except this one.
func (m machine) members(ids map[string]namespaceID) ([]int, error) {
	inCgroup, err := cgroupPIDs(m.cgroup) // those of its pods
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() || pid == 1 {
			continue
		}
		if !inCgroup[pid] && !inNamespace(pid, ids) {
			continue
		}
		if _, state, err := processStat(pid); err == nil && state != 'Z' && state != 'X' {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func inNamespace(pid int, ids map[string]namespaceID) bool {
	for kind, want := range ids {
		id, err := statNamespace(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err == nil && id == want {
			return true
		}
	}
	return false
}

// unmountPrivate detaches a node's own mounts and all below them; it runs in
// the node's mount namespace.
func unmountPrivate() error {
	mounts, err := readMounts("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	tops := append(privateDirs(), "/run")
	for _, m := range slices.Backward(mounts) {
		for _, top := range tops {
			if m.target != top && !strings.HasPrefix(m.target, top+"/") {
				continue
			}
			if err := detach(m.target); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// unmountBelow detaches what is mounted in the state directory on the machine
// itself: the pins and their private mount.
func (l layout) unmountBelow() error {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if m.target != l.dir && !strings.HasPrefix(m.target, l.dir+"/") {
			continue
		}
		if err := detach(m.target); err != nil {
			return err
		}
	}
	return nil
}

// unmountAll detaches everything mounted on one path.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

func detach(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// removeEmptyDirs removes directories, deepest first, that hold nothing.
func removeEmptyDirs(dirs []string) {
	sorted := slices.Clone(dirs)
	slices.Sort(sorted)
	for _, dir := range slices.Backward(sorted) {
		_ = unix.Rmdir(dir) // not empty: somebody else uses it
	}
}

// removeTree removes a directory. Files that a driver made immutable, as
// placeholders below a mount point, are made mutable first.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, unix.EPERM) {
		return err
	}
	walkErr := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || d.Type().IsRegular() {
			return clearImmutable(path)
		}
		return nil
	})
	if walkErr != nil {
		return fmt.Errorf("make %s removable: %w", dir, walkErr)
	}
	return os.RemoveAll(dir)
}

func clearImmutable(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&unix.STATX_ATTR_IMMUTABLE == 0 {
		return nil
	}
	flags &^= unix.STATX_ATTR_IMMUTABLE // the same bit as FS_IMMUTABLE_FL
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags); err != nil {
		return fmt.Errorf("make %s mutable: %w", path, err)
	}
	return nil
}
