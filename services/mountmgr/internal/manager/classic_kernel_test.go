//go:build kernel

package manager_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// adopted waits until the mount of a pod of the existing driver is ours.
func adopted(t *testing.T, n *nodetest.Node) store.Record {
	t.Helper()
	var record store.Record
	n.Eventually("the mount is adopted and its descriptor in the vault", func() error {
		mounts := n.Manager.List()
		if len(mounts) != 1 {
			return fmt.Errorf("%d mounts", len(mounts))
		}
		record = mounts[0]
		return n.Held(record.ID)
	})
	return record
}

func servedAs(t *testing.T, n *nodetest.Node, id string, mode store.ClientMode) error {
	t.Helper()
	record := current(t, n, id)
	if record.State != "Serving" || record.Client.Mode != mode || record.Successor != nil {
		return fmt.Errorf("state %s, client %+v", record.State, record.Client)
	}
	return nil
}

func isUnprivileged(n *nodetest.Node, record store.Record) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Kubelet.PID(record.Client.PodUID)))
	if err == nil && !strings.Contains(string(status), "CapEff:\t0000000000000000") {
		err = errors.New("the client has capabilities")
	}
	return err
}

func TestAMountOfTheExistingDriverMovesOverAndBack(t *testing.T) {
	for _, image := range []string{olderImage, nodetest.Image} {
		t.Run(image, func(t *testing.T) {
			n := nodetest.NewNode(t)
			one, two := n.Target("pv-1"), n.Target("two")
			pod := n.StartForeignMount("pv-1", image, one)
			record := adopted(t, n)
			if err := servedAs(t, n, record.ID, store.ModeClassic); err != nil || len(record.References) != 1 ||
				record.References[0].VolumeID != "pv-1" || record.References[0].TargetPath != one {
				t.Fatalf("adopted %+v: %v", record, err)
			}
			write(t, n, filepath.Join(one, "f"), "hello")
			if joined := publish(t, n, "pv-1", two); joined.ID != record.ID {
				t.Errorf("a further target has mount %s, want %s", joined.ID, record.ID)
			}
			if err := read(n, filepath.Join(two, "f"), "hello"); err != nil {
				t.Error(err)
			}
			t.Run("killed", func(t *testing.T) { crashClassic(t, n, record, filepath.Join(one, "f")) })

			w := startWriter(t, n, filepath.Join(one, "log"))
			w.awaitMore(t, 50)
			phases, last := upgrade(t, n, record.ID, manager.UpgradeRequest{})
			if last.Phase != store.UpgradeCommitted {
				t.Fatalf("phases %v: %s", phases, last.Message)
			}
			t.Logf("to ours: nobody served for %v", last.Pause)
			if err := errors.Join(servedAs(t, n, record.ID, ""), isUnprivileged(n, current(t, n, record.ID))); err != nil {
				t.Error(err)
			}
			if n.Kubelet.Running(string(pod.UID)) {
				t.Error("the pod of the existing driver runs")
			}
			w.awaitMore(t, 50)

			n.StopManager()
			n.ClassicPods = true
			n.StartManager()
			phases, last = upgrade(t, n, record.ID, manager.UpgradeRequest{Image: image})
			if last.Phase != store.UpgradeCommitted {
				t.Fatalf("back: phases %v: %s", phases, last.Message)
			}
			t.Logf("back: nobody served for %v", last.Pause)
			if err := servedAs(t, n, record.ID, store.ModeClassic); err != nil {
				t.Error(err)
			}
			w.awaitMore(t, 50)
			w.stopAndCheck(t, n)
			back := current(t, n, record.ID)
			for _, target := range []string{one, two} {
				if err := n.Manager.Unpublish(t.Context(), target); err != nil {
					t.Fatal(err)
				}
			}
			n.Eventually("the mount is gone", func() error { return nothingLeft(n, back) })
		})
	}
}

// crashClassic kills the whole container; kubelet starts it again, and its
// client gets the descriptor from the keeper: the mount is the same.
func crashClassic(t *testing.T, n *nodetest.Node, record store.Record, file string) {
	t.Helper()
	old := n.Kubelet.PID(record.Client.PodUID)
	n.Kubelet.Signal(record.Client.PodUID, syscall.SIGKILL)
	if err := read(n, file, "hello"); err != nil {
		t.Error(err)
	}
	n.Eventually("the client serves again in its pod", func() error {
		now := current(t, n, record.ID)
		if n.Kubelet.PID(record.Client.PodUID) == old || now.State != "Serving" || now.Recoveries == 0 {
			return fmt.Errorf("state %s, %d recoveries", now.State, now.Recoveries)
		}
		return n.Held(record.ID)
	})
	if now := current(t, n, record.ID); now.DeviceMinor != record.DeviceMinor || now.Client.PodUID != record.Client.PodUID {
		t.Errorf("before %+v, now %+v", record, now)
	}
}
