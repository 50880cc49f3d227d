package devcluster

import (
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
	name string
	dir  string
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

// create makes the namespaces in flags and pins them, then runs setup inside.
func (m machine) create(flags int, setup func() error) error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", m.dir, err)
	}
	tid, pinned := make(chan int, 1), make(chan error, 1)
	failed := make(chan error, 1)
	go func() {
		failed <- onThread(func() error {
			if err := unix.Unshare(flags); err != nil {
				close(tid)
				return fmt.Errorf("create namespaces of %s: %w", m.name, err)
			}
			tid <- unix.Gettid()
			// From here, other threads of this process cannot see the pins
			// being made, so the caller's thread makes them.
			if err := <-pinned; err != nil {
				return err
			}
			return setup()
		})
	}()
	if id, ok := <-tid; ok {
		pinned <- m.pinAll(id, flags)
	}
	return <-failed
}

func (m machine) pinAll(tid, flags int) error {
	for _, kind := range namespaceKinds() {
		if flags&kind.flag == 0 {
			continue
		}
		pin := m.pin(kind.file)
		if err := os.WriteFile(pin, nil, 0o600); err != nil {
			return fmt.Errorf("create %s: %w", pin, err)
		}
		source := fmt.Sprintf("/proc/%d/task/%d/ns/%s", os.Getpid(), tid, kind.file)
		if err := unix.Mount(source, pin, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin %s namespace of %s: %w", kind.file, m.name, err)
		}
	}
	return nil
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
		open := map[string]int{}
		defer func() {
			for _, fd := range open {
				_ = unix.Close(fd)
			}
		}()
		for _, kind := range kinds {
			fd, err := unix.Open(m.pin(kind), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("open %s namespace of %s: %w", kind, m.name, err)
			}
			open[kind] = fd
		}
		for _, kind := range namespaceKinds() {
			fd, ok := open[kind.file]
			if !ok {
				continue
			}
			if err := unix.Setns(fd, kind.flag); err != nil {
				return fmt.Errorf("enter %s namespace of %s: %w", kind.file, m.name, err)
			}
		}
		return fn()
	})
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
