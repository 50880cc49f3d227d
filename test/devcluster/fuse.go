package devcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// abortFuse ends the FUSE connections of the cluster's nodes, so that no
// process waits for a server that has been killed: such a process cannot be
// killed either. Connections that the machine itself has mounted are not
// touched.
func abortFuse(mountTables []string) error {
	foreign, err := fuseConnections("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	ours := map[uint32]bool{}
	for _, table := range mountTables {
		connections, err := fuseConnections(table)
		if err != nil {
			continue // the process has ended
		}
		for id := range connections {
			if !foreign[id] {
				ours[id] = true
			}
		}
	}
	if len(ours) == 0 {
		return nil
	}
	return onThread(func() error { return abortConnections(ours) })
}

// fuseConnections returns the connections mounted in a mount table. The name
// of a connection in fusectl is its device number, which for FUSE is the
// minor number alone; fuseblk mounts have another device and are left out.
func fuseConnections(table string) (map[uint32]bool, error) {
	mounts, err := readMounts(table)
	if err != nil {
		return nil, err
	}
	ids := map[uint32]bool{}
	for _, m := range mounts {
		if m.isFuse() && m.major == 0 {
			ids[m.minor] = true
		}
	}
	return ids, nil
}

// abortConnections mounts fusectl in a mount namespace of the calling thread,
// which must end afterwards, so the machine does not see it.
func abortConnections(ids map[uint32]bool) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("create mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const control = "/sys/fs/fuse/connections"
	if err := unix.Mount("none", control, "fusectl", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount fusectl: %w", err)
	}
	var faults []error
	for id := range ids {
		file := filepath.Join(control, strconv.FormatUint(uint64(id), 10), "abort")
		if err := os.WriteFile(file, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("abort FUSE connection %d: %w", id, err))
		}
	}
	return errors.Join(faults...)
}
