//go:build kernel

package manager_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
)

// A client that hangs takes one process of the mount manager, however many ask
// how full its volume is, and gives it back when it goes on.
func TestManyAskAMountThatHangs(t *testing.T) {
	t.Parallel()
	const callers = 100
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	usage := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		_, err := n.Manager.Usage(ctx, "pv-1", target)
		return err
	}
	if err := usage(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	pid := clientOf(t, n.Kubelet.PID(record.Client.PodUID))
	signal(t, pid, syscall.SIGSTOP)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	ended := make(chan error, callers)
	for range callers {
		go func() { ended <- usage(5 * time.Second) }()
	}
	most := 0
	for left := callers; left > 0; {
		most = max(most, probes(t, target))
		select {
		case err := <-ended:
			left--
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("usage = %v, want deadline exceeded", err)
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
	if most != 1 {
		t.Errorf("%d processes for %d callers, want 1", most, callers)
	}
	signal(t, pid, syscall.SIGCONT)
	n.Eventually("no process is left", func() error {
		if left := probes(t, target); left > 0 {
			return fmt.Errorf("%d processes", left)
		}
		return nil
	})
	if err := usage(30 * time.Second); err != nil {
		t.Errorf("the client goes on: %v", err)
	}
}

// clientOf returns the client below a mount pod's PID 1: the last one of the
// chain of processes.
func clientOf(t *testing.T, pid int) int {
	t.Helper()
	for {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if err != nil {
			t.Fatal(err)
		}
		children := ""
		for _, task := range tasks {
			text, _ := os.ReadFile(task) // A thread may have ended.
			children += string(text)
		}
		fields := strings.Fields(children)
		if len(fields) == 0 {
			return pid
		}
		if pid, err = strconv.Atoi(fields[0]); err != nil {
			t.Fatal(err)
		}
	}
}

func signal(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatalf("signal %d: %v", pid, err)
	}
}

// probes counts the processes that ask how full path is.
func probes(t *testing.T, path string) int {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, each := range found {
		line, _ := os.ReadFile(each) // It may have ended.
		if strings.HasSuffix(string(line), "\x00probe\x00usage\x00"+path+"\x00") {
			count++
		}
	}
	return count
}

func TestEventsAndCountersOfALife(t *testing.T) {
	n := nodetest.NewNode(t)
	record := publish(t, n, "pv-1", n.Target("one"))
	serves := func(what string, kinds string) {
		t.Helper()
		n.Eventually(what, func() error {
			if now := current(t, n, record.ID); now.State != "Serving" || n.Events.Kinds() != kinds {
				return fmt.Errorf("state %s after %q", now.State, n.Events.Kinds())
			}
			return nil
		})
	}
	n.Kubelet.Kill(record.Client.PodUID)
	serves("it is recovered", "Recovered")
	now := current(t, n, record.ID)
	if err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), now.Client.PodName, deleteOptions()); err != nil {
		t.Fatal(err)
	}
	serves("it is replaced", "Recovered Replaced")
	upgrade(t, n, record.ID, manager.UpgradeRequest{Image: olderImage})
	serves("it is upgraded", "Recovered Replaced HandedOver")
	for _, event := range n.Events.Told() {
		if event.Pause <= 0 || event.Mount.State != "Serving" || len(event.Mount.References) != 1 {
			t.Errorf("%s: pause %v, state %s", event.Kind, event.Pause, event.Mount.State)
		}
		t.Logf("%s after %v: %s", event.Kind, event.Pause, event.Cause)
	}
	if got := counted(t, n, "upgrades_total", "committed"); got != 1 {
		t.Errorf("%v upgrades counted", got)
	}
	if got := counted(t, n, "probes_total", string(probe.Answered)); got < 3 {
		t.Errorf("%v probes counted", got)
	}
}

// counted is a counter of the mount manager by its name and label.
func counted(t *testing.T, n *nodetest.Node, name, label string) float64 {
	t.Helper()
	families, err := n.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "juicefs_csi_mountmgr_"+name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if metric.GetLabel()[0].GetValue() == label {
				return metric.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s with label %s", name, label)
	return 0
}
