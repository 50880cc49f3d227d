//go:build kernel

package cgroup_test

import (
	"context"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/cgroup"
)

// The kernel has either version or both: whatever looks like a root is tried.
func TestAGroupOfTheKernel(t *testing.T) {
	name := "juicefs-csi-test-" + rand.Text()
	roots := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.controllers"); err == nil {
		roots = append(roots, "/sys/fs/cgroup/unified")
	}
	for _, root := range roots {
		tree, err := cgroup.Find(root, name)
		if err != nil {
			t.Fatal(err)
		}
		sleep := exec.CommandContext(t.Context(), "sleep", "1000")
		if err := sleep.Start(); err != nil {
			t.Fatal(err)
		}
		const id = "0123456789abcdef"
		err = tree.Make(id, cgroup.Limits{})
		if err == nil {
			err = tree.Put(id, sleep.Process.Pid)
		}
		groups, _ := filepath.Glob(filepath.Join(root, "*", name, id))
		single, _ := filepath.Glob(filepath.Join(root, name, id))
		for _, group := range append(groups, single...) {
			text, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
			if err != nil || !slices.Contains(strings.Fields(string(text)), strconv.Itoa(sleep.Process.Pid)) {
				t.Errorf("%s: %q, %v", group, text, err)
			}
		}
		if err != nil || len(groups)+len(single) == 0 {
			t.Errorf("groups below %s: %v, %v, %v", root, groups, single, err)
		}
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := tree.Remove(ctx, id); err != nil {
			t.Error(err)
		}
		cancel()
		parents, _ := filepath.Glob(filepath.Join(root, "*", name))
		for _, parent := range append(parents, filepath.Join(root, name)) {
			if err := os.Remove(parent); err != nil && !os.IsNotExist(err) {
				t.Errorf("something is left: %v", err)
			}
		}
	}
}
