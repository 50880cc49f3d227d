package reattach

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

	"github.com/juicefs-csi/driver/libs/mountinfo"
)

// Namespaces returns the mount namespaces of the containers of pods in which a
// lost connection is visible, or a new one without the attributes that it
// should have. Our own is none of them. proc is the proc file system of the
// node. Processes and containers come and go meanwhile: another look may find
// more.
func Namespaces(proc string, pods []string, connection Connection) ([]Namespace, error) {
	processes, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	own, err := namespaceInode(filepath.Join(proc, "self"))
	if err != nil {
		return nil, err
	}
	seen := map[uint64]bool{own: true}
	var found []Namespace
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		directory := filepath.Join(proc, process.Name())
		if err != nil || !belongsTo(directory, pods) {
			continue
		}
		inode, err := namespaceInode(directory)
		if err != nil || seen[inode] {
			continue // It has ended, or another process showed the same.
		}
		lost, err := showsLost(directory, connection)
		if err != nil {
			continue // It has ended; another may be in the same namespace.
		}
		seen[inode] = true
		if lost {
			found = append(found, Namespace{PID: pid, Inode: inode})
		}
	}
	return found, nil
}

// belongsTo tells by its cgroup whether a process is of one of the pods;
// systemd's names have no dashes.
func belongsTo(process string, pods []string) bool {
	raw, err := os.ReadFile(filepath.Join(process, "cgroup"))
	if err != nil {
		return false
	}
	cgroups := string(raw)
	return slices.ContainsFunc(pods, func(uid string) bool {
		return strings.Contains(cgroups, "pod"+uid) || strings.Contains(cgroups, "pod"+strings.ReplaceAll(uid, "-", "_"))
	})
}

func namespaceInode(process string) (uint64, error) {
	var stat unix.Stat_t
	path := filepath.Join(process, "ns/mnt")
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("look at mount namespace %s: %w", path, err)
	}
	return stat.Ino, nil
}

func showsLost(process string, connection Connection) (bool, error) {
	file, err := os.Open(filepath.Join(process, "mountinfo"))
	if err != nil {
		return false, err
	}
	entries, err := mountinfo.Parse(file)
	if err = errors.Join(err, file.Close()); err != nil && !errors.Is(err, fs.ErrClosed) {
		return false, err
	}
	steps, left := plan(entries, connection, nil)
	return len(steps)+len(left) > 0, nil
}
