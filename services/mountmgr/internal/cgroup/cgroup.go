// Package cgroup gives processes that run without a container runtime control
// groups of their own, on cgroup v2 and on the hierarchies of v1.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// period is the CPU period of the kernel's default, in microseconds.
	period = 100_000
	// removeInterval paces the removal of a group whose process is just ending.
	removeInterval = 5 * time.Millisecond
	// ownControllers are those of which each process has a group of its own, in
	// v1; in the others one group is shared.
	ownControllers = "cpu,memory,pids"
)

// Limits of a group; 0 is none.
type Limits struct {
	// Memory is in bytes.
	Memory int64
	// MilliCPU is thousandths of a processor.
	MilliCPU int64
}

// Tree is where the groups are made: one directory in each hierarchy. The
// zero value makes none.
type Tree struct {
	// own are parents of groups; shared are groups that all processes are in.
	own, shared []string
	unified     bool
}

// Find finds the hierarchies below root, which is /sys/fs/cgroup, and gives
// them the group name. errdefs.ErrNotFound when there are none.
func Find(root, name string) (Tree, error) {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return Tree{own: []string{filepath.Join(root, name)}, unified: true}, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return Tree{}, fmt.Errorf("find cgroups: %w", err)
	}
	var tree Tree
	for _, entry := range entries {
		hierarchy := filepath.Join(root, entry.Name())
		// Symbolic links are other names of hierarchies that are there.
		if _, err := os.Stat(filepath.Join(hierarchy, "cgroup.procs")); err != nil || !entry.IsDir() {
			continue
		}
		tree.add(hierarchy, entry.Name(), name)
	}
	if len(tree.own) == 0 {
		return Tree{}, fmt.Errorf("no cgroups with limits below %s: %w", root, errdefs.ErrNotFound)
	}
	return tree, nil
}

// add adds a hierarchy of v1. Container runtimes kill by some of them, so the
// processes must leave all.
func (t *Tree) add(hierarchy, controllers, name string) {
	switch {
	case hasAny(controllers, "cpuset"):
		// A new group has neither processors nor memory.
		t.shared = append(t.shared, hierarchy)
	case hasAny(controllers, ownControllers):
		t.own = append(t.own, filepath.Join(hierarchy, name))
	default:
		t.shared = append(t.shared, filepath.Join(hierarchy, name))
	}
}

func hasAny(controllers, wanted string) bool {
	for controller := range strings.SplitSeq(controllers, ",") {
		for name := range strings.SplitSeq(wanted, ",") {
			if controller == name {
				return true
			}
		}
	}
	return false
}

// Make makes the groups id with their limits.
func (t Tree) Make(id string, limits Limits) error {
	for _, parent := range t.own {
		if err := t.makeGroup(parent, id); err != nil {
			return err
		}
	}
	for _, group := range t.shared {
		if err := os.MkdirAll(group, 0o755); err != nil { //nolint:gosec // as the kernel has them
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	if limits.Memory > 0 {
		size := strconv.FormatInt(limits.Memory, 10)
		if err := t.set(id, "memory", setting{"memory.max", size}, setting{"memory.limit_in_bytes", size}); err != nil {
			return err
		}
	}
	if limits.MilliCPU > 0 {
		quota := strconv.FormatInt(max(limits.MilliCPU*period/1000, 1000), 10)
		return t.set(id, "cpu", setting{"cpu.max", fmt.Sprintf("%s %d", quota, period)}, setting{"cpu.cfs_quota_us", quota})
	}
	return nil
}

func (t Tree) makeGroup(parent, id string) error {
	if err := os.MkdirAll(parent, 0o755); err != nil { //nolint:gosec // as the kernel has them
		return fmt.Errorf("make cgroup: %w", err)
	}
	if t.unified {
		for _, group := range []string{filepath.Dir(parent), parent} {
			enable(group)
		}
	}
	if err := os.Mkdir(filepath.Join(parent, id), 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // see above
		return fmt.Errorf("make cgroup: %w", err)
	}
	return nil
}

// enable lets the children of a group have limits. What the kernel refuses is
// missed when a limit is set.
func enable(group string) {
	for controller := range strings.SplitSeq(ownControllers, ",") {
		_ = write(filepath.Join(group, "cgroup.subtree_control"), "+"+controller)
	}
}

// setting is a file of a group and its content.
type setting struct{ file, text string }

// set writes the one of the settings that a group has.
func (t Tree) set(id, controller string, settings ...setting) error {
	for _, parent := range t.own {
		for _, setting := range settings {
			err := write(filepath.Join(parent, id, setting.file), setting.text)
			if err == nil {
				return nil
			}
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("limit %s: %w", controller, err)
			}
		}
	}
	if len(t.own) == 0 {
		return nil
	}
	return fmt.Errorf("cgroup controller %s is not available: enable it, or run without limits with --process-cgroup=: %w",
		controller, errdefs.ErrFailedPrecondition)
}

// Put moves a process into the groups id.
func (t Tree) Put(id string, pid int) error {
	groups := append([]string(nil), t.shared...)
	for _, parent := range t.own {
		groups = append(groups, filepath.Join(parent, id))
	}
	for _, group := range groups {
		if err := write(filepath.Join(group, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move process %d to its cgroup: %w", pid, err)
		}
	}
	return nil
}

// Remove removes the groups id, whose processes have ended or are ending,
// within ctx. Those that are gone are no error.
func (t Tree) Remove(ctx context.Context, id string) error {
	for _, parent := range t.own {
		if err := remove(ctx, filepath.Join(parent, id)); err != nil {
			return err
		}
	}
	return nil
}

func remove(ctx context.Context, group string) error {
	ticker := time.NewTicker(removeInterval)
	defer ticker.Stop()
	for {
		err := unix.Rmdir(group)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove cgroup %s: %w", group, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w (%w)", group, err, ctx.Err())
		case <-ticker.C:
		}
	}
}

// List returns the ids of the groups that are there.
func (t Tree) List() []string {
	seen := make(map[string]bool)
	var ids []string
	for _, parent := range t.own {
		entries, _ := os.ReadDir(parent) // No group yet.
		for _, entry := range entries {
			if entry.IsDir() && !seen[entry.Name()] {
				seen[entry.Name()] = true
				ids = append(ids, entry.Name())
			}
		}
	}
	return ids
}

// write writes to a file that the kernel has made.
func write(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}
