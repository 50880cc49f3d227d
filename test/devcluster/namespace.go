package devcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// machine is a set of namespaces that plays a machine: the control plane
// (network only) or a node (network, mount and UTS). The namespaces are kept
// by bind mounts of their /proc files in dir, not by a process that might be
// killed.
type machine struct {
	name   string
	dir    string
	cgroup string // in every hierarchy, without a leading slash
}

// namespaceKind is one kind of namespace: its file below /proc/PID/ns and its
// clone flag. The mount namespace is entered last, because after that the
// pins are out of sight.
type namespaceKind struct {
	file string
	flag int
}

func namespaceKinds() []namespaceKind {
	return []namespaceKind{
		{"net", unix.CLONE_NEWNET},
		{"uts", unix.CLONE_NEWUTS},
		{"mnt", unix.CLONE_NEWNS},
	}
}

func (m machine) pin(kind string) string { return filepath.Join(m.dir, kind) }

// onThread runs fn on an operating system thread of its own that ends
// afterwards, so fn may change the thread's namespaces. It never uses the
// main thread: /proc/self names that one.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// The runtime cannot end the main thread. While it is locked here,
			// the work gets another one.
			result <- onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		result <- fn()
	}()
	return <-result
}

// elsewhere runs fn on another thread, in the namespaces that the process
// started in, for a caller that onThread has given a thread of its own.
func elsewhere(fn func() error) error {
	result := make(chan error, 1)
	go func() { result <- fn() }()
	return <-result
}

// create makes the namespaces in flags and pins them, then runs setup inside.
func (m machine) create(flags int, setup func() error) error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", m.dir, err)
	}
	return onThread(func() error {
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("create namespaces of %s: %w", m.name, err)
		}
		tid := unix.Gettid()
		for _, kind := range namespaceKinds() {
			if flags&kind.flag == 0 {
				continue
			}
			err := elsewhere(func() error { return m.pinThread(tid, kind.file) })
			if errors.Is(err, unix.EINVAL) && kind.flag == unix.CLONE_NEWNS {
				err = m.pinLaterMounts(tid)
			}
			if err != nil {
				return err
			}
		}
		return setup()
	})
}

// pinThread keeps a thread's namespace.
func (m machine) pinThread(tid int, kind string) error {
	pin := m.pin(kind)
	if err := os.WriteFile(pin, nil, 0o600); err != nil {
		return fmt.Errorf("create %s: %w", pin, err)
	}
	source := fmt.Sprintf("/proc/%d/task/%d/ns/%s", os.Getpid(), tid, kind)
	if err := unix.Mount(source, pin, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s namespace of %s: %w", kind, m.name, err)
	}
	return nil
}

// pinLaterMounts gives the calling thread, whose id is tid, another mount
// namespace until one can be pinned. To exclude loops, the kernel lets a mount
// namespace be pinned only in one with a lower id. Linux 6.18 draws ids from
// blocks for each processor, so a later namespace can have a lower id; on the
// processor that made the outer one it never has.
func (m machine) pinLaterMounts(tid int) error {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("ask for processors: %w", err)
	}
	var err error
	for cpu := range len(allowed) * 64 {
		if !allowed.IsSet(cpu) {
			continue
		}
		var only unix.CPUSet
		only.Set(cpu)
		if err := unix.SchedSetaffinity(0, &only); err != nil {
			return fmt.Errorf("move to processor %d: %w", cpu, err)
		}
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("create mount namespace of %s: %w", m.name, err)
		}
		err = elsewhere(func() error { return m.pinThread(tid, "mnt") })
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return err
}

// do runs fn inside the machine's namespaces. Programs that fn starts are
// inside too; goroutines that it starts are not.
func (m machine) do(fn func() error) error {
	var kinds []string
	for _, kind := range namespaceKinds() {
		if _, err := os.Lstat(m.pin(kind.file)); err == nil {
			kinds = append(kinds, kind.file)
		}
	}
	if len(kinds) == 0 {
		return fmt.Errorf("%s has no namespaces: %w", m.name, errdefs.ErrNotFound)
	}
	return m.enter(kinds, fn)
}

// enter is do for some of the machine's namespaces.
func (m machine) enter(kinds []string, fn func() error) error {
	return onThread(func() error {
		// Without this, setns of a mount namespace fails: the threads of a Go
		// program share their root and working directory.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare working directory: %w", err)
		}
		if err := m.join(kinds); err != nil {
			return err
		}
		return fn()
	})
}

// join moves the calling thread into namespaces. All pins are opened before
// the first is entered.
func (m machine) join(kinds []string) error {
	open := map[string]*os.File{}
	defer func() {
		for _, f := range open {
			_ = f.Close()
		}
	}()
	for _, kind := range kinds {
		f, err := os.Open(m.pin(kind))
		if err != nil {
			return fmt.Errorf("open %s namespace of %s: %w", kind, m.name, err)
		}
		open[kind] = f
	}
	for _, kind := range namespaceKinds() {
		f, ok := open[kind.file]
		if !ok {
			continue
		}
		if err := unix.Setns(int(f.Fd()), kind.flag); err != nil {
			return fmt.Errorf("enter %s namespace of %s: %w", kind.file, m.name, err)
		}
	}
	return nil
}

// namespaceID identifies a namespace for comparison with those of processes.
type namespaceID struct{ dev, ino uint64 }

// ids returns the identities of the machine's namespaces by kind; kinds that
// are not pinned are left out.
func (m machine) ids() map[string]namespaceID {
	ids := map[string]namespaceID{}
	for _, kind := range namespaceKinds() {
		var fsStat unix.Statfs_t
		if unix.Statfs(m.pin(kind.file), &fsStat) != nil || fsStat.Type != unix.NSFS_MAGIC {
			continue
		}
		if id, err := statNamespace(m.pin(kind.file)); err == nil {
			ids[kind.file] = id
		}
	}
	return ids
}

func statNamespace(path string) (namespaceID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return namespaceID{}, err
	}
	return namespaceID{st.Dev, st.Ino}, nil
}

// preparePins makes the directory of the pins a private mount: a mount
// namespace cannot be pinned below a shared one.
func (l layout) preparePins() error {
	dir := l.path("ns")
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", dir, err)
	}
	return nil
}
