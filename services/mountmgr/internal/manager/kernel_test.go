//go:build kernel

package manager_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

// publish publishes volume name at a target of its own.
func publish(t *testing.T, n *nodetest.Node, volume, target string) store.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	record, _, err := n.Manager.Publish(ctx, manager.PublishRequest{
		VolumeID: volume, TargetPath: target, Attributes: n.Attributes(), Secret: n.Secret("test"),
	})
	if err != nil {
		t.Fatalf("publish %s: %v", volume, err)
	}
	return record
}

func write(t *testing.T, n *nodetest.Node, path, content string) {
	t.Helper()
	if _, err := n.Command("sh", "-c", `printf %s "$1" > "$2"`, "sh", content, path); err != nil {
		t.Fatal(err)
	}
}

func read(n *nodetest.Node, path, want string) error {
	got, err := n.Command("cat", path)
	if err == nil && got != want {
		err = fmt.Errorf("%s holds %q instead of %q", path, got, want)
	}
	return err
}

func TestTwoTargetsShareAMountAndLeaveNothing(t *testing.T) {
	n := nodetest.NewNode(t)
	one, two := n.Target("one"), n.Target("two")
	first := publish(t, n, "pv-1", one)
	second := publish(t, n, "pv-1", two)
	if first.ID != second.ID {
		t.Errorf("two targets of one volume have the mounts %s and %s", first.ID, second.ID)
	}
	write(t, n, filepath.Join(one, "f"), "hello")
	if err := read(n, filepath.Join(two, "f"), "hello"); err != nil {
		t.Error(err)
	}
	capabilities, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Kubelet.PID(second.Client.PodUID)))
	if err != nil || !strings.Contains(string(capabilities), "CapEff:\t0000000000000000") {
		t.Errorf("mount pod has capabilities: %v\n%s", err, capabilities)
	}
	for _, target := range []string{one, two, two} {
		if err := n.Manager.Unpublish(t.Context(), target); err != nil {
			t.Fatal(err)
		}
	}
	n.Eventually("the mount is gone", func() error { return nothingLeft(n, first) })
}

func nothingLeft(n *nodetest.Node, record store.Record) error {
	if mounts := n.Manager.List(); len(mounts) > 0 {
		return fmt.Errorf("%d mounts are recorded, the first in state %s", len(mounts), mounts[0].State)
	}
	if n.Kubelet.Running(record.Client.PodUID) {
		return errors.New("its mount pod runs")
	}
	for _, dir := range []string{"volume", "private"} {
		if entries, err := os.ReadDir(filepath.Join(n.Dir, dir)); err != nil || len(entries) > 0 {
			return errors.Join(fmt.Errorf("%s holds %v", dir, entries), err)
		}
	}
	return nil
}

func TestAWriterSurvivesTheDeletionOfItsMountPod(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 50)
	for round := range 3 {
		old := current(t, n, record.ID)
		if err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), old.Client.PodName, deleteOptions()); err != nil {
			t.Fatal(err)
		}
		n.Eventually("a successor serves", func() error {
			now := current(t, n, record.ID)
			if now.Client.PodUID == old.Client.PodUID || now.State != "Serving" {
				return fmt.Errorf("round %d: state %s, pod %s", round, now.State, now.Client.PodName)
			}
			return nil
		})
		w.AwaitMore(t, 50)
	}
	w.StopAndCheck(t, n)
}

func TestAWriterSurvivesAManagerThatEndsInAHandOver(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 50)
	for round := range 12 {
		old := current(t, n, record.ID)
		if err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(t.Context(), old.Client.PodName, deleteOptions()); err != nil {
			t.Fatal(err)
		}
		// A hand-over takes about 200 ms here: end it at another moment each time.
		wait := time.NewTimer(time.Duration(round) * 20 * time.Millisecond)
		<-wait.C
		n.StopManager()
		n.StartManager()
		n.Eventually("a successor serves", func() error {
			now := current(t, n, record.ID)
			if now.Client.PodUID == old.Client.PodUID || now.State != "Serving" {
				return fmt.Errorf("round %d: state %s, pod %s", round, now.State, now.Client.PodName)
			}
			return nil
		})
		w.AwaitMore(t, 20)
	}
	w.StopAndCheck(t, n)
}

func TestReadersSurviveKills(t *testing.T) {
	for _, kill := range []struct {
		name string
		do   func(*nodetest.Node, store.Record)
	}{
		{"jfs-launch", func(n *nodetest.Node, r store.Record) { n.Kubelet.Kill(r.Client.PodUID) }},
		{"vault", func(n *nodetest.Node, _ store.Record) { n.StopVault(); n.StartVault() }},
		{"manager", func(n *nodetest.Node, _ store.Record) { n.StopManager(); n.StartManager() }},
		{"vault and manager", func(n *nodetest.Node, _ store.Record) {
			n.StopManager()
			n.StopVault()
			n.StartVault()
			n.StartManager()
		}},
		{"manager, then jfs-launch while it is away", func(n *nodetest.Node, r store.Record) {
			n.StopManager()
			n.Kubelet.Kill(r.Client.PodUID)
			n.StartManager()
		}},
		{"vault, then jfs-launch", func(n *nodetest.Node, r store.Record) {
			n.StopVault()
			n.StartVault()
			n.Eventually("the vault is filled", func() error { return n.Held(r.ID) })
			n.Kubelet.Kill(r.Client.PodUID)
		}},
	} {
		t.Run(kill.name, func(t *testing.T) {
			n := nodetest.NewNode(t)
			target := n.Target("one")
			record := publish(t, n, "pv-1", target)
			write(t, n, filepath.Join(target, "f"), "hello")
			kill.do(n, current(t, n, record.ID))
			if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
				t.Error(err)
			}
			write(t, n, filepath.Join(target, "g"), "again")
			n.Eventually("the mount serves with both copies of its descriptor", func() error {
				if now := current(t, n, record.ID); now.State != "Serving" {
					return fmt.Errorf("state %s: %s", now.State, now.Message)
				}
				return n.Held(record.ID)
			})
			if err := read(n, filepath.Join(target, "g"), "again"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAFailedStartNamesItsCauseAndLeavesNothing(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	for name, c := range map[string]struct {
		change func(map[string]string)
		want   string
	}{
		"bad storage":      {func(s map[string]string) { s["storage"] = "nosuch" }, "nosuch"},
		"no engine":        {func(s map[string]string) { s["metaurl"] = "redis://127.0.0.1:1/1" }, "127.0.0.1:1"},
		"no writable data": {func(s map[string]string) { s["bucket"] = "/proc/nothing/" }, "/proc/nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			secret := n.Secret("bad")
			c.change(secret)
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			began := time.Now()
			_, _, err := n.Manager.Publish(ctx, manager.PublishRequest{
				VolumeID: "pv-bad", TargetPath: n.Target("bad"), Attributes: n.Attributes(), Secret: secret,
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("publish = %v, want an error that names %s", err, c.want)
			}
			t.Logf("after %v: %v", time.Since(began).Round(time.Millisecond), err)
			n.Eventually("nothing is left", func() error { return nothingLeft(n, store.Record{}) })
		})
	}
}

func current(t *testing.T, n *nodetest.Node, id string) store.Record {
	t.Helper()
	record, err := n.Manager.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func deleteOptions() metav1.DeleteOptions { return metav1.DeleteOptions{} }
