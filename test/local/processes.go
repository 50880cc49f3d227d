package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Processes returns the ids of the processes whose executable has this name and
// whose cgroup contains all given texts, such as a pod's uid or the cgroup of a
// node. The nodes of the local cluster have no pid namespace of their own.
func Processes(executable string, cgroup ...string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		path, err := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
		// The file of a running program may have been replaced by another release.
		if err != nil || strings.TrimSuffix(filepath.Base(path), " (deleted)") != executable {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cgroup"))
		if err == nil && containsAll(string(text), cgroup) {
			found = append(found, pid)
		}
	}
	return found, nil
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}
