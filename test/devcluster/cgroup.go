package devcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted cgroup hierarchy of the machine.
type hierarchy struct {
	path    string
	unified bool // cgroup v2
	cpuset  bool // v1: a new cgroup needs its processors and memory nodes set
}

func hierarchies() ([]hierarchy, error) {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return pickHierarchies(mounts), nil
}

func pickHierarchies(mounts []mountEntry) []hierarchy {
	var list []hierarchy
	for _, m := range mounts {
		switch m.fsType {
		case "cgroup":
			options := strings.Split(m.superOptions, ",")
			cpuset := false
			for _, option := range options {
				cpuset = cpuset || option == "cpuset"
			}
			list = append(list, hierarchy{path: m.target, cpuset: cpuset})
		case "cgroup2":
			list = append(list, hierarchy{path: m.target, unified: true})
		}
	}
	return list
}

// createCgroups makes a cgroup, given as a relative path, in every hierarchy.
func createCgroups(cgroup string) error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range list {
		dir := h.path
		for part := range strings.SplitSeq(cgroup, "/") {
			parent := dir
			dir = filepath.Join(dir, part)
			if err := h.create(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h hierarchy) create(parent, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create cgroup: %w", err)
	}
	if h.cpuset {
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := copyFile(filepath.Join(parent, file), filepath.Join(dir, file)); err != nil {
				return fmt.Errorf("set up cgroup %s: %w", dir, err)
			}
		}
	}
	if h.unified {
		return delegateControllers(parent)
	}
	return nil
}

// delegateControllers lets the children of a cgroup v2 directory use all of
// its controllers; on a hybrid machine it has none.
func delegateControllers(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read cgroup controllers: %w", err)
	}
	for controller := range strings.FieldsSeq(string(data)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
		if err != nil {
			return fmt.Errorf("enable cgroup controller %s in %s: %w", controller, dir, err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// cgroupDirs returns a cgroup and all below it in every hierarchy, children
// before parents.
func cgroupDirs(cgroup string) ([]string, error) {
	list, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, h := range list {
		top := filepath.Join(h.path, cgroup)
		var found []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() { // with an error it is gone meanwhile
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("walk cgroups: %w", err)
		}
		slices.Reverse(found)
		dirs = append(dirs, found...)
	}
	return dirs, nil
}

// cgroupPIDs returns the processes in a cgroup and all below it.
func cgroupPIDs(cgroup string) (map[int]bool, error) {
	dirs, err := cgroupDirs(cgroup)
	if err != nil {
		return nil, err
	}
	pids := map[int]bool{}
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue // gone meanwhile
		}
		for field := range strings.FieldsSeq(string(data)) {
			// A frozen cgroup's processes show, and are killed, like others.
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids[pid] = true
			}
		}
	}
	return pids, nil
}

func removeCgroups(cgroup string) error {
	dirs, err := cgroupDirs(cgroup)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}
