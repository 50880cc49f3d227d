package main

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestFlagsReachEveryCommand names a directory without a cluster, which only
// gives its error when the flag is understood, before and after the command.
func TestFlagsReachEveryCommand(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"--dir", dir, "status"},
		{"status", "--dir", dir},
		{"--dir", dir, "kubectl", "get", "pods", "--all-namespaces"},
		{"--dir", dir, "exec", "node-1", "ls", "-l"},
		{"exec", "--dir", dir, "node-1", "--", "ls", "-l"},
		{"--dir", dir, "load-image", "x.tar", "--node", "node-1"},
		{"--dir", dir, "restart", "kubelet", "node-1"},
		{"--dir", dir, "shell", "node-1"},
	} {
		cmd := newCommand(func(string) string { return "" })
		cmd.SetArgs(args)
		err := cmd.ExecuteContext(t.Context())
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestExitCode(t *testing.T) {
	ran := exec.Command("sh", "-c", "exit 7").Run()
	for name, tc := range map[string]struct {
		err  error
		code int
		show bool
	}{
		"success":            {nil, 0, false},
		"command that fails": {quietExit(ran), 7, false},
		"error of ours":      {quietExit(errors.New("no such node")), 1, true},
	} {
		if code, show := exitCode(tc.err); code != tc.code || show != tc.show {
			t.Errorf("%s: exit code %d, shown %v", name, code, show)
		}
	}
}
