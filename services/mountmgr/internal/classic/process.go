package classic

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

// inPod says whether a process belongs to a pod, by its control group.
func inPod(pid int, podUID string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || podUID == "" {
		return false
	}
	// The cgroupfs driver names it pod<uid>, systemd's kubepods-...-pod<uid with
	// underscores>.slice.
	return bytes.Contains(raw, []byte("pod"+podUID)) ||
		bytes.Contains(raw, []byte("pod"+strings.ReplaceAll(podUID, "-", "_")))
}

// findChild finds the process that calls itself inner in its own pid namespace
// and is supervisor or its child. It reads nothing that waits for a process which
// is stuck in its memory.
func findChild(supervisor launcher.Process, inner int) (launcher.Process, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return launcher.Process{}, fmt.Errorf("list processes: %w", err)
	}
	for _, entry := range entries {
		parent, ids, err := readStatus(entry)
		if err != nil || len(ids) == 0 || ids[len(ids)-1] != inner {
			continue
		}
		if parent != int(supervisor.PID) && ids[0] != int(supervisor.PID) {
			continue
		}
		return launcher.Identify(int32(ids[0]))
	}
	return launcher.Process{}, fmt.Errorf("client with process id %d in its pod: %w", inner, errdefs.ErrNotFound)
}

// findInit finds PID 1 of a pod.
func findInit(podUID string, inPod func(int, string) bool) (launcher.Process, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return launcher.Process{}, fmt.Errorf("list processes: %w", err)
	}
	for _, entry := range entries {
		_, ids, err := readStatus(entry)
		if err == nil && len(ids) > 1 && ids[len(ids)-1] == 1 && inPod(ids[0], podUID) && !isPause(ids[0]) {
			return launcher.Identify(int32(ids[0]))
		}
	}
	return launcher.Process{}, fmt.Errorf("no process of pod %s runs: %w", podUID, errdefs.ErrUnavailable)
}

// isPause tells the process that holds a pod's namespaces.
func isPause(pid int) bool {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.TrimSpace(string(name)) == "pause"
}

// readStatus returns the parent and the process ids from our namespace inwards.
func readStatus(path string) (parent int, ids []int, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = file.Close() }()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		key, value, _ := strings.Cut(scanner.Text(), ":")
		switch key {
		case "PPid":
			parent, err = strconv.Atoi(strings.TrimSpace(value))
		case "NSpid":
			for field := range strings.FieldsSeq(value) {
				id, failed := strconv.Atoi(field)
				ids, err = append(ids, id), failed
			}
		}
		if err != nil {
			return 0, nil, err
		}
	}
	return parent, ids, scanner.Err()
}

// fuseDescriptor finds the number of a /dev/fuse descriptor of a process.
func fuseDescriptor(process launcher.Process) (int, error) {
	directory := fmt.Sprintf("/proc/%d/fd", process.PID)
	entries, err := os.ReadDir(directory)
	if err != nil {
		return 0, fmt.Errorf("list descriptors of process %d: %w", process.PID, err)
	}
	found := slices.IndexFunc(entries, func(entry os.DirEntry) bool {
		target, err := os.Readlink(filepath.Join(directory, entry.Name()))
		return err == nil && filepath.Base(target) == "fuse" // Below the root of another namespace.
	})
	if found < 0 {
		return 0, fmt.Errorf("process %d holds no FUSE descriptor: %w", process.PID, errdefs.ErrNotFound)
	}
	return strconv.Atoi(entries[found].Name())
}
