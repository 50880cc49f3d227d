package reattach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
)

// Main is the process that does the job in argument, which is JSON. It ends
// with its thread in another namespace: the process must end too.
func Main(argument string) (Report, error) {
	var job Job
	if err := json.Unmarshal([]byte(argument), &job); err != nil {
		return Report{}, fmt.Errorf("decode job: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	runtime.LockOSThread() // Its namespace and directory are those of this thread alone.
	c, err := newChild(job)
	if err != nil {
		return Report{}, err
	}
	defer c.close()
	return c.run()
}

// child is the process.
type child struct {
	Job
	// source is the root of the new connection.
	source *os.File
	// proc is the node's; it is also the working directory, since a container
	// may have none.
	proc *os.File
	// own and theirs are mount namespaces; theirs is nil for a job in our own.
	own, theirs *os.File
}

func newChild(job Job) (*child, error) {
	c := &child{Job: job}
	err := c.open()
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *child) open() (err error) {
	if c.source, err = kernelmount.OpenMount(unix.AT_FDCWD, c.MountPath); err != nil {
		return err
	}
	found, err := kernelmount.Identify(int(c.source.Fd()))
	if err != nil || found.Minor != c.Minor || !found.Root {
		return errors.Join(fmt.Errorf("%s does not show device 0:%d: %w", c.MountPath, c.Minor, errdefs.ErrUnavailable), err)
	}
	if c.proc, err = os.Open("/proc"); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the working directory: %w", err)
	}
	if c.Namespace != nil {
		if c.own, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
			return err
		}
		if c.theirs, err = c.Namespace.open(); err != nil {
			return err
		}
	}
	return c.toProc()
}

// open fails when the process has ended, or another one has its number.
func (n *Namespace) open() (*os.File, error) {
	file, err := os.Open(filepath.Join("/proc", strconv.Itoa(n.PID), "ns/mnt"))
	if err != nil {
		return nil, fmt.Errorf("open mount namespace of process %d: %w", n.PID, err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil || stat.Ino != n.Inode {
		return nil, errors.Join(fmt.Errorf("process %d is in another mount namespace: %w", n.PID, errdefs.ErrNotFound), err, file.Close())
	}
	return file, nil
}

func (c *child) close() {
	for _, file := range []*os.File{c.source, c.proc, c.own, c.theirs} {
		if file != nil {
			_ = file.Close()
		}
	}
}

func (c *child) toProc() error {
	if err := unix.Fchdir(int(c.proc.Fd())); err != nil {
		return fmt.Errorf("enter /proc: %w", err)
	}
	return nil
}

// enter goes into a namespace; nil stays.
func (c *child) enter(namespace *os.File) error {
	if namespace == nil {
		return nil
	}
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return c.toProc()
}

// mounts are those of the namespace that the process is in.
func (c *child) mounts() ([]mountinfo.Entry, error) {
	fd, err := unix.Openat(int(c.proc.Fd()), "thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	file := os.NewFile(uintptr(fd), "mountinfo")
	defer func() { _ = file.Close() }()
	return mountinfo.Parse(file)
}

// run plans inside the namespace, makes the mounts outside, where the new
// connection is, and puts them into their places inside.
func (c *child) run() (Report, error) {
	if err := c.enter(c.theirs); err != nil {
		return Report{}, err
	}
	entries, err := c.mounts()
	if err != nil {
		return Report{}, err
	}
	steps, left := plan(entries, c.Connection, c.paths())
	report := Report{Left: left}
	if err := c.enter(c.own); err != nil {
		return Report{}, err
	}
	trees := c.trees(steps, &report)
	defer closeAll(trees)
	if err := c.enter(c.theirs); err != nil {
		return Report{}, err
	}
	done := apply(steps, trees, &report)
	if entries, err = c.mounts(); err != nil {
		return Report{}, err
	}
	for _, mount := range done {
		if top, ok := topmost(entries, mount.Path); ok && !c.isNew(top) {
			report.fail(mount.Path, fmt.Errorf("it shows device %d:%d", top.Major, top.Minor))
			continue
		}
		report.Replaced = append(report.Replaced, mount.Path)
	}
	return report, nil
}

func (c *child) paths() []string {
	if c.Namespace != nil {
		return nil
	}
	return slices.Concat(c.Paths, []string{""}) // Never nil, which is every path.
}

func closeAll(trees []*os.File) {
	for _, tree := range trees {
		if tree != nil {
			_ = tree.Close()
		}
	}
}

// trees makes the mount for each step that needs one; nil where it needs none
// or where it fails.
func (c *child) trees(steps []step, report *Report) []*os.File {
	trees := make([]*os.File, len(steps))
	for i, step := range steps {
		if step.action != swap {
			continue
		}
		tree, err := c.tree(step)
		if err != nil {
			report.fail(step.mount.Path, err)
			continue
		}
		trees[i] = tree
	}
	return trees
}

func (c *child) tree(step step) (*os.File, error) {
	tree, err := c.clone(step.mount)
	if err != nil {
		return nil, err
	}
	for _, inner := range step.inner {
		if err := c.insert(tree, step.mount, inner); err != nil {
			return nil, errors.Join(fmt.Errorf("mount at %s inside of it: %w", inner.Path, err), tree.Close())
		}
	}
	return tree, nil
}

// clone makes a mount of the new connection that shows what the old one did.
func (c *child) clone(old mountinfo.Entry) (*os.File, error) {
	if name := inside(old); name != "" {
		fd, err := beneath(c.source, name)
		if err != nil {
			return nil, fmt.Errorf("open %s in the volume: %w", name, err)
		}
		defer func() { _ = fd.Close() }()
		return kernelmount.Clone(int(fd.Fd()), attributes(old))
	}
	return kernelmount.Clone(int(c.source.Fd()), attributes(old))
}

// beneath opens what users have put into the volume: no link leads out of it.
func beneath(root *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS |
			unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// insert attaches what an inner mount showed inside a tree that is attached
// nowhere yet, so that both appear at once. Linux before 6.15 refuses.
func (c *child) insert(tree *os.File, outer, inner mountinfo.Entry) error {
	clone, err := c.clone(inner)
	if err != nil {
		return err
	}
	defer func() { _ = clone.Close() }()
	point, err := beneath(tree, strings.TrimPrefix(strings.TrimPrefix(inner.Path, outer.Path), "/"))
	if err != nil {
		return err
	}
	defer func() { _ = point.Close() }()
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	return unix.MoveMount(int(clone.Fd()), "", int(point.Fd()), "", flags)
}

// apply does the steps and returns the mounts whose steps succeeded.
func apply(steps []step, trees []*os.File, report *Report) []mountinfo.Entry {
	var done []mountinfo.Entry
	for i, step := range steps {
		if step.action == swap && trees[i] == nil {
			continue
		}
		if err := applyOne(step, trees[i]); err != nil {
			report.fail(step.mount.Path, err)
			continue
		}
		done = append(done, step.mount)
	}
	return done
}

func applyOne(step step, tree *os.File) error {
	visible := step.mount
	if step.action == restrict {
		visible = step.cover
	}
	root, err := kernelmount.OpenMount(unix.AT_FDCWD, visible.Path)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	// The directories above may be others than those that the mount was listed with.
	found, err := kernelmount.Identify(int(root.Fd()))
	if err != nil || found.ID != visible.ID || found.Minor != visible.Minor || !found.Root {
		return errors.Join(fmt.Errorf("%s is another mount by now: %w", visible.Path, errdefs.ErrUnavailable), err)
	}
	switch step.action {
	case restrict:
		return kernelmount.Restrict(int(root.Fd()), attributes(step.mount))
	case uncover:
		return kernelmount.Detach(int(root.Fd()), ".")
	default:
		return kernelmount.Replace(int(tree.Fd()), int(root.Fd()), ".")
	}
}

// fail notes what could not be done. What is not in the volume any more does
// not come back by trying again.
func (r *Report) fail(path string, err error) {
	r.Left = append(r.Left, Left{Path: path, Reason: err.Error(), Retry: !errors.Is(err, fs.ErrNotExist)})
}

// topmost returns the mount that is visible at path; false when none is.
func topmost(entries []mountinfo.Entry, path string) (mountinfo.Entry, bool) {
	for _, entry := range slices.Backward(entries) {
		covered := func(other mountinfo.Entry) bool { return other.Parent == entry.ID && other.Path == path }
		if entry.Path == path && !slices.ContainsFunc(entries, covered) {
			return entry, true
		}
	}
	return mountinfo.Entry{}, false
}
