//go:build kernel

package manager_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

			w := nodetest.StartWriter(t, filepath.Join(one, "log"))
			w.AwaitMore(t, 50)
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
			w.AwaitMore(t, 50)

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
			w.AwaitMore(t, 50)
			w.StopAndCheck(t, n)
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

func TestAnAdoptedMountOutlivesWhatServesIt(t *testing.T) {
	t.Parallel()
	for _, kill := range []struct {
		name string
		do   func(*testing.T, *nodetest.Node, store.Record)
		// mode is how the mount is served then.
		mode store.ClientMode
	}{
		{"manager", func(_ *testing.T, n *nodetest.Node, _ store.Record) { n.StopManager(); n.StartManager() }, store.ModeClassic},
		{"vault and manager", func(_ *testing.T, n *nodetest.Node, _ store.Record) {
			n.StopManager()
			n.StopVault()
			n.StartVault()
			n.StartManager()
		}, store.ModeClassic},
		{"vault and manager, which is back first", func(_ *testing.T, n *nodetest.Node, _ store.Record) {
			n.StopManager()
			n.StopVault()
			n.StartManager()
			<-time.After(time.Second) // The mount manager has met the client then, if it does without the vault.
			n.StartVault()
		}, store.ModeClassic},
		{"vault, then the container", func(_ *testing.T, n *nodetest.Node, r store.Record) {
			n.StopVault()
			n.StartVault()
			n.Eventually("the vault is filled", func() error { return n.Held(r.ID) })
			n.Kubelet.Signal(r.Client.PodUID, syscall.SIGKILL)
		}, store.ModeClassic},
		{"manager, then the container", func(_ *testing.T, n *nodetest.Node, r store.Record) {
			n.StopManager()
			n.StartManager()
			n.Kubelet.Signal(r.Client.PodUID, syscall.SIGKILL)
		}, store.ModeClassic},
		{"manager, and the container while it is away", func(t *testing.T, n *nodetest.Node, r store.Record) {
			t.Helper()
			n.StopManager()
			socket := filepath.Join(n.ExchangeDir(), "pv-1-uuid", "fuse_fd_comm.1")
			before, err := os.Stat(socket)
			if err != nil {
				t.Fatal(err)
			}
			// The next one finds no keeper, and waits for the mount that is its own.
			n.Kubelet.Signal(r.Client.PodUID, syscall.SIGKILL)
			n.Eventually("the client is started again", func() error {
				now, err := os.Stat(socket)
				if err == nil && os.SameFile(before, now) {
					err = errors.New("its supervisor does not listen yet")
				}
				return err
			})
			n.StartManager()
		}, ""},
		{"pod, by its deletion", func(t *testing.T, n *nodetest.Node, r store.Record) {
			t.Helper()
			err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), r.Client.PodName, deleteOptions())
			if err != nil {
				t.Fatal(err)
			}
			n.Eventually("another pod serves", func() error {
				if current(t, n, r.ID).Client.PodUID == r.Client.PodUID {
					return errors.New("the old one is recorded")
				}
				return nil
			})
		}, ""},
	} {
		t.Run(kill.name, func(t *testing.T) {
			n := nodetest.NewNode(t)
			target := n.Target("pv-1")
			n.StartForeignMount("pv-1", nodetest.Image, target)
			record := adopted(t, n)
			write(t, n, filepath.Join(target, "f"), "hello")
			kill.do(t, n, record)
			n.Eventually("the mount serves with both copies of its descriptor", func() error {
				return errors.Join(servedAs(t, n, record.ID, kill.mode), n.Held(record.ID))
			})
			if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
				t.Error(err)
			}
			write(t, n, filepath.Join(target, "g"), "again")
			if now := current(t, n, record.ID); now.DeviceMinor != record.DeviceMinor {
				t.Errorf("connection %d became %d", record.DeviceMinor, now.DeviceMinor)
			}
		})
	}
}

func TestAnAdoptedMountWithoutItsSecretIsCompletedByAPublish(t *testing.T) {
	n := nodetest.NewNode(t)
	n.StopManager()
	one := n.Target("pv-1")
	pod := n.StartForeignMount("pv-1", nodetest.Image, one)
	secrets := n.Kubelet.Client.CoreV1().Secrets(nodetest.Namespace)
	if err := secrets.Delete(t.Context(), "juicefs-pv-1-secret", deleteOptions()); err != nil {
		t.Fatal(err)
	}
	n.StartManager()
	record := adopted(t, n)
	_, err := n.Manager.PlanUpgrade(record.ID, manager.UpgradeRequest{})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "juicefs-pv-1-secret") {
		t.Errorf("an upgrade without the Secret: %v", err)
	}
	if joined := publish(t, n, "pv-1", n.Target("two")); joined.ID != record.ID {
		t.Errorf("a further target has mount %s, want %s", joined.ID, record.ID)
	}
	plan, err := n.Manager.PlanUpgrade(record.ID, manager.UpgradeRequest{})
	if err != nil || !plan.CanHandOver {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	if _, last := upgrade(t, n, record.ID, manager.UpgradeRequest{}); last.Phase != store.UpgradeCommitted {
		t.Fatal(last.Message)
	}
	if n.Kubelet.Running(string(pod.UID)) {
		t.Error("the pod of the existing driver runs")
	}
	// The mount is one as any other from the next publish on.
	publish(t, n, "pv-1", n.Target("three"))
	if now := current(t, n, record.ID); now.Adopted != nil || now.SettingsHash == "" || len(now.References) != 3 {
		t.Errorf("afterwards %+v", now)
	}
}

func TestAPublishInAClassicPod(t *testing.T) {
	n := nodetest.NewNode(t)
	n.StopManager()
	n.ClassicPods = true
	n.StartManager()
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	if err := errors.Join(servedAs(t, n, record.ID, store.ModeClassic), n.Held(record.ID)); err != nil {
		t.Error(err)
	}
	write(t, n, filepath.Join(target, "f"), "hello")
	crashClassic(t, n, current(t, n, record.ID), filepath.Join(target, "f"))
	if err := n.Manager.Unpublish(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the mount is gone", func() error { return nothingLeft(n, record) })
	secrets, err := n.Kubelet.Client.CoreV1().Secrets(nodetest.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(secrets.Items) > 0 {
		t.Errorf("%d Secrets are left, %v", len(secrets.Items), err)
	}
}

// TestAClientWithoutAKeeperIsAdopted: as clients before 1.2.1 are.
func TestAClientWithoutAKeeperIsAdopted(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("pv-1")
	pod := n.StartForeignMount("pv-1", nodetest.Image, target, func(pod *corev1.Pod) {
		container := &pod.Spec.Containers[0]
		container.Env = container.Env[:2]
		container.VolumeMounts = slices.DeleteFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/tmp" })
	})
	record := adopted(t, n)
	write(t, n, filepath.Join(target, "f"), "hello")
	n.StopManager()
	n.StopVault()
	n.StartVault()
	n.StartManager()
	n.Eventually("the mount serves with both copies of its descriptor", func() error {
		return errors.Join(servedAs(t, n, record.ID, store.ModeClassic), n.Held(record.ID))
	})
	_, last := upgrade(t, n, record.ID, manager.UpgradeRequest{})
	if last.Phase != store.UpgradeRolledBack || !strings.Contains(last.Message, "how its connection was set up") {
		t.Errorf("an upgrade ended as %s: %s", last.Phase, last.Message)
	}
	if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
		t.Error(err)
	}
	if !n.Kubelet.Running(string(pod.UID)) {
		t.Error("its pod has ended")
	}
	if err := n.Manager.Unpublish(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	n.Eventually("the mount is gone", func() error { return nothingLeft(n, record) })
}
