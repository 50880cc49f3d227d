//go:build kernel

package processhost_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

// olderImage is what upgrades of these tests begin with.
const olderImage = "mount:ce-v1.3.1"

func publish(t *testing.T, n *nodetest.Node, volume, target string, more map[string]string) store.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	attributes := n.Attributes()
	maps.Copy(attributes, more)
	record, _, err := n.Manager.Publish(ctx, manager.PublishRequest{
		VolumeID: volume, TargetPath: target, Attributes: attributes, Secret: n.Secret("test"),
	})
	if err != nil {
		t.Fatalf("publish %s: %v", volume, err)
	}
	return record
}

func current(t *testing.T, n *nodetest.Node, id string) store.Record {
	t.Helper()
	record, err := n.Manager.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// children are the process ids of the processes that a process has started.
func children(tb testing.TB, pid int32) []string {
	tb.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		tb.Fatal(err)
	}
	var pids []string
	for _, list := range lists {
		text, _ := os.ReadFile(list) // A thread may have ended.
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}

// nothingLeft looks for the process, its cgroups, its directory and the mount.
func nothingLeft(n *nodetest.Node, left store.Client) error {
	if mounts := n.Manager.List(); len(mounts) > 0 {
		return fmt.Errorf("%d mounts are recorded, the first in state %s", len(mounts), mounts[0].State)
	}
	if groups := n.CgroupPaths(left.PodUID); len(groups) > 0 {
		return fmt.Errorf("cgroups are left: %v", groups)
	}
	for _, dir := range []string{n.ProcessDir(), filepath.Join(n.Dir, "volume"), filepath.Join(n.Dir, "private")} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			return errors.Join(fmt.Errorf("%s holds %v", dir, entries), err)
		}
	}
	if left.Launcher.PID != 0 {
		if err := unix.Kill(int(left.Launcher.PID), 0); !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("process %d is there", left.Launcher.PID)
		}
	}
	return nil
}

// The whole life of a mount whose client is a process, with a writer that must
// not notice any of it.
func TestAWriterSurvivesTheLifeOfAProcess(t *testing.T) {
	n := nodetest.NewProcessNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target, map[string]string{"juicefs/mount-image": olderImage})
	if record.Client.Mode != store.ModeProcess || record.Client.Image != olderImage {
		t.Fatalf("the client is %+v", record.Client)
	}
	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 50)
	for _, step := range []struct {
		name string
		do   func(store.Record)
		// replaces tells that another client serves in the end.
		replaces bool
	}{
		{"upgrade", func(r store.Record) { upgrade(t, n, r.ID) }, true},
		{"upgrade while the manager ends", func(r store.Record) { endedUpgrade(t, n, r.ID) }, false},
		{"restart of the manager", func(store.Record) { n.StopManager(); n.StartManager() }, false},
		{"SIGTERM to jfs-launch", func(r store.Record) { signal(t, r.Client.Launcher.PID, unix.SIGTERM) }, true},
	} {
		before := current(t, n, record.ID)
		step.do(before)
		n.Eventually(step.name+": a client serves", func() error {
			if step.replaces && current(t, n, record.ID).Client.PodUID == before.Client.PodUID {
				return errors.New("the old client is not replaced")
			}
			return serves(t, n, before)
		})
		w.AwaitMore(t, 50)
		after := current(t, n, record.ID).Client
		t.Logf("%s: process %d, then %d", step.name, before.Client.Launcher.PID, after.Launcher.PID)
		if after.PodUID != before.Client.PodUID {
			n.Eventually("the old process is gone", func() error { return processGone(n, before.Client) })
		}
	}
	w.StopAndCheck(t, n)
	last := current(t, n, record.ID).Client
	if err := n.Manager.Unpublish(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the mount is gone", func() error { return nothingLeft(n, last) })
}

func processGone(n *nodetest.Node, client store.Client) error {
	if groups := n.CgroupPaths(client.PodUID); len(groups) > 0 {
		return fmt.Errorf("cgroups are left: %v", groups)
	}
	if _, err := os.Stat(filepath.Join(n.ProcessDir(), client.PodUID)); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("its directory is left: %w", err)
	}
	return nil
}

func serves(t *testing.T, n *nodetest.Node, before store.Record) error {
	t.Helper()
	now := current(t, n, before.ID)
	if now.State != "Serving" || now.Successor != nil || now.Upgrade.Running() {
		return fmt.Errorf("state %s: %s", now.State, now.Message)
	}
	return n.Held(before.ID)
}

func upgrade(t *testing.T, n *nodetest.Node, id string) {
	t.Helper()
	var last store.Upgrade
	err := n.Manager.Upgrade(t.Context(), id, manager.UpgradeRequest{Image: nodetest.Image}, func(u store.Upgrade) error {
		last = u
		return nil
	})
	if err != nil || last.Phase != store.UpgradeCommitted {
		t.Fatalf("upgrade: %+v, %v", last, err)
	}
	if now := current(t, n, id).Client; now.Image != nodetest.Image || !strings.HasPrefix(now.Version, "1.4.2") {
		t.Errorf("after the upgrade: %+v", now)
	}
	t.Logf("nobody served for %v", last.Pause)
}

// endedUpgrade ends the manager when the successor is there.
func endedUpgrade(t *testing.T, n *nodetest.Node, id string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := n.Manager.Upgrade(ctx, id, manager.UpgradeRequest{Image: olderImage}, func(u store.Upgrade) error {
		if u.Phase == store.UpgradeSuccessorReady {
			cancel()
		}
		return nil
	})
	if err == nil {
		t.Fatal("the upgrade ended before its successor was ready")
	}
	n.StopManager()
	n.StartManager()
}

func signal(t *testing.T, pid int32, number unix.Signal) {
	t.Helper()
	if err := unix.Kill(int(pid), number); err != nil {
		t.Fatal(err)
	}
}

func TestReadersSurviveKillsOfProcesses(t *testing.T) {
	n := nodetest.NewProcessNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target, nil)
	for _, kill := range []struct {
		name string
		do   func(store.Record)
		// recovers tells that another client must take over.
		recovers bool
	}{
		{"client", func(r store.Record) {
			for _, pid := range children(t, r.Client.Launcher.PID) {
				if _, err := n.Command("kill", "-9", pid); err != nil {
					t.Fatal(err)
				}
			}
		}, true},
		{"jfs-launch", func(r store.Record) { signal(t, r.Client.Launcher.PID, unix.SIGKILL) }, true},
		{"jfs-launch while the manager is away", func(r store.Record) {
			n.StopManager()
			signal(t, r.Client.Launcher.PID, unix.SIGKILL)
			n.StartManager()
		}, true},
		{"vault and manager", func(store.Record) {
			n.StopManager()
			n.StopVault()
			n.StartVault()
			n.StartManager()
		}, false},
	} {
		path := filepath.Join(target, kill.name)
		if _, err := n.Command("sh", "-c", `printf hello > "$1"`, "sh", path); err != nil {
			t.Fatal(err)
		}
		before := current(t, n, record.ID)
		kill.do(before)
		if got, err := n.Command("cat", path); err != nil || got != "hello" {
			t.Errorf("%s: read %q, %v", kill.name, got, err)
		}
		n.Eventually(kill.name+": a client serves", func() error {
			if kill.recovers && current(t, n, record.ID).Recoveries == before.Recoveries {
				return errors.New("nothing was recovered")
			}
			return serves(t, n, before)
		})
	}
	last := current(t, n, record.ID).Client
	if err := n.Manager.Unpublish(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the mount is gone", func() error { return nothingLeft(n, last) })
}

// A mount goes on in its pod when the mount mode of the node changes, and its
// next client is a process.
func TestAMountMovesFromItsPodToAProcess(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target, map[string]string{"juicefs/mount-image": olderImage})
	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 50)
	n.StopManager()
	n.UseProcesses()
	n.StartManager()
	n.Eventually("the pod serves on", func() error { return serves(t, n, record) })
	w.AwaitMore(t, 50)
	if now := current(t, n, record.ID); now.Client.PodUID != record.Client.PodUID || now.Recoveries != 0 {
		t.Errorf("after the change of the mode: %+v", now.Client)
	}
	upgrade(t, n, record.ID)
	if now := current(t, n, record.ID); now.Client.Mode != store.ModeProcess {
		t.Errorf("after the upgrade: %+v", now.Client)
	}
	n.Eventually("the mount pod is gone", func() error {
		if n.Kubelet.Running(record.Client.PodUID) {
			return errors.New("it runs")
		}
		return nil
	})
	w.AwaitMore(t, 50)
	w.StopAndCheck(t, n)
	last := current(t, n, record.ID).Client
	if err := n.Manager.Unpublish(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the mount is gone", func() error { return nothingLeft(n, last) })
}

// What a mount pod may not do, a process may not either.
func TestAProcessIsConfined(t *testing.T) {
	n := nodetest.NewProcessNode(t)
	record := publish(t, n, "pv-1", n.Target("one"), map[string]string{
		"juicefs/mount-memory-limit": "512Mi", "juicefs/mount-cpu-limit": "1500m",
	})
	init := record.Client.Launcher.PID
	pids := append(children(t, init), strconv.Itoa(int(init)))
	if len(pids) < 2 {
		t.Fatalf("jfs-launch has no child: %v", pids)
	}
	for _, pid := range pids {
		status := readProc(t, pid, "status")
		for _, line := range []string{
			"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
			"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
		} {
			if !strings.Contains(status, line) {
				t.Errorf("process %s is without %q:\n%s", pid, line, status)
			}
		}
		mounts := readProc(t, pid, "mountinfo")
		if strings.Contains(mounts, "fuse") || strings.Contains(mounts, "/kubelet") || strings.Contains(mounts, "cgroup") {
			t.Errorf("process %s sees mounts of the node:\n%s", pid, mounts)
		}
		for line := range strings.SplitSeq(strings.TrimSpace(mounts), "\n") {
			fields := strings.Fields(line)
			protected := []string{"/usr", "/bin", "/opt/juicefs-csi", "/proc/sys", "/proc/sysrq-trigger"}
			if slices.Contains(protected, fields[4]) && !strings.HasPrefix(fields[5], "ro") {
				t.Errorf("process %s may write to %s", pid, fields[4])
			}
		}
	}
	for _, name := range []string{"mnt", "pid", "ipc"} {
		theirs, err := os.Readlink(filepath.Join("/proc", pids[0], "ns", name))
		ours, _ := os.Readlink(filepath.Join("/proc/self/ns", name))
		if err != nil || theirs == ours {
			t.Errorf("the client is in our %s namespace (%s), %v", name, theirs, err)
		}
	}
	checkLimits(t, n, record.Client.PodUID, pids)
}

// checkLimits looks for the limits in whichever version of cgroups there is.
func checkLimits(t *testing.T, n *nodetest.Node, id string, pids []string) {
	t.Helper()
	limits := map[string]string{
		"memory.max": "536870912", "memory.limit_in_bytes": "536870912", "cpu.max": "150000 100000", "cpu.cfs_quota_us": "150000",
	}
	found := 0
	for _, group := range n.CgroupPaths(id) {
		for file, want := range limits {
			text, err := os.ReadFile(filepath.Join(group, file))
			if err != nil {
				continue // Of the other version, or another controller.
			}
			found++
			if got := strings.TrimSpace(string(text)); got != want {
				t.Errorf("%s of %s is %s, want %s", file, group, got, want)
			}
		}
		text, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		for _, pid := range pids {
			if err != nil || !slices.Contains(strings.Fields(string(text)), pid) {
				t.Errorf("process %s is not in %s: %q, %v", pid, group, text, err)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d limits are set, want memory and CPU", found)
	}
}

func readProc(t *testing.T, pid, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAFailedStartOfAProcessNamesItsCauseAndLeavesNothing(t *testing.T) {
	n := nodetest.NewProcessNode(t)
	for name, c := range map[string]struct {
		attributes, secret map[string]string
		want               []string
	}{
		"no client": {
			attributes: map[string]string{"juicefs/mount-image": "example.com/mount:ce-v9"},
			want:       []string{"example.com/mount:ce-v9", "client/example.com_mount_ce-v9", "jfs-launch copy"},
		},
		"secret volume": {
			secret: map[string]string{"configs": `{"other": "/etc/other"}`},
			want:   []string{"configs", "other"},
		},
		"host path that covers what is needed": {
			attributes: map[string]string{"juicefs/host-path": "/run"},
			want:       []string{"/run", "/run/jfs-launch"},
		},
		"host path that cannot be": {
			attributes: map[string]string{"juicefs/host-path": "/sys/nothing"},
			want:       []string{"/sys/nothing"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			request := manager.PublishRequest{
				VolumeID: "pv-bad", TargetPath: n.Target("bad"), Attributes: n.Attributes(), Secret: n.Secret("bad"),
			}
			maps.Copy(request.Attributes, c.attributes)
			maps.Copy(request.Secret, c.secret)
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			_, _, err := n.Manager.Publish(ctx, request)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("publish = %v, want an error that names %s", err, want)
				}
			}
			t.Log(err)
			n.Eventually("nothing is left", func() error { return nothingLeft(n, store.Client{PodUID: "*"}) })
		})
	}
}
