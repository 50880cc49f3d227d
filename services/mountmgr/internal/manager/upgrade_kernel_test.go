//go:build kernel

package manager_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// olderImage is what upgrades of these tests begin with.
const olderImage = "mount:ce-v1.3.1"

// publishOlder publishes a volume whose client is older than the configured one.
func publishOlder(t *testing.T, n *nodetest.Node, target string) store.Record {
	t.Helper()
	n.SetConfig(volume.Config{MountPodPatch: []volume.Patch{{CEMountImage: olderImage}}})
	record := publish(t, n, "pv-1", target)
	n.SetConfig(volume.Config{})
	if record.Client.Image != olderImage || !strings.HasPrefix(record.Client.Version, "1.3.1") {
		t.Fatalf("the first client is %+v", record.Client)
	}
	return record
}

// upgrade returns the phases and how the upgrade ended.
func upgrade(t *testing.T, n *nodetest.Node, id string, request manager.UpgradeRequest) ([]store.UpgradePhase, store.Upgrade) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	var phases []store.UpgradePhase
	var last store.Upgrade
	err := n.Manager.Upgrade(ctx, id, request, func(u store.Upgrade) error {
		phases, last = append(phases, u.Phase), u
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return phases, last
}

func TestAWriterSurvivesUpgrades(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publishOlder(t, n, target)
	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 50)
	plan, err := n.Manager.PlanUpgrade(record.ID, manager.UpgradeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := []manager.Change{{Field: "image", Old: olderImage, New: nodetest.Image}}
	if !plan.CanHandOver || !slices.Equal(plan.Changes, want) || plan.ExpectedPause != 0 {
		t.Errorf("plan %+v, want %+v", plan, want)
	}
	for _, c := range []struct {
		image, version string
		request        manager.UpgradeRequest
	}{
		{nodetest.Image, "1.4.2", manager.UpgradeRequest{}},
		{olderImage, "1.3.1", manager.UpgradeRequest{Image: olderImage}},
		{nodetest.Image, "1.4.2", manager.UpgradeRequest{StallBudget: 8 * time.Second}},
	} {
		old := current(t, n, record.ID)
		phases, last := upgrade(t, n, record.ID, c.request)
		if !slices.Equal(phases, store.UpgradePhases()[:5]) {
			t.Errorf("phases %v", phases)
		}
		if last.ToImage != c.image || !strings.HasPrefix(last.ToVersion, c.version) || last.Pause <= 0 || last.FromImage != old.Client.Image {
			t.Errorf("upgrade to %s: %+v", c.image, last)
		}
		now := current(t, n, record.ID)
		if now.Client.Image != c.image || now.Client.PodUID == old.Client.PodUID || now.Successor != nil || now.State != "Serving" {
			t.Errorf("after the upgrade to %s: %s, %+v", c.image, now.State, now.Client)
		}
		w.AwaitMore(t, 50)
		t.Logf("%s: nobody served for %v", c.image, last.Pause.Round(time.Millisecond))
	}
	plan, err = n.Manager.PlanUpgrade(record.ID, manager.UpgradeRequest{})
	if err != nil || len(plan.Changes) != 0 || plan.ExpectedPause == 0 {
		t.Errorf("plan after the upgrades: %+v, %v", plan, err)
	}
	// The mount has the hash of the present settings: a new target joins it.
	if joined := publish(t, n, "pv-1", n.Target("two")); joined.ID != record.ID {
		t.Errorf("a new target has mount %s, want %s", joined.ID, record.ID)
	}
	w.StopAndCheck(t, n)
}

func TestAnUpgradeThatFailsIsRolledBack(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publishOlder(t, n, target)
	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 50)
	phases, last := upgrade(t, n, record.ID, manager.UpgradeRequest{Image: "mount:none"})
	if !slices.Equal(phases, []store.UpgradePhase{store.UpgradePlanned, store.UpgradeRolledBack}) || last.Message == "" {
		t.Errorf("phases %v, %q", phases, last.Message)
	}
	n.Eventually("the old client serves", func() error { return servedBy(t, n, record) })
	w.AwaitMore(t, 50)
	if _, err := n.Manager.AbortUpgrade(t.Context(), record.ID, last.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("abort of what is over: %v", err)
	}
	// Until the successor is there, an upgrade can be taken back.
	ended := make(chan store.Upgrade, 1)
	err := n.Manager.Upgrade(t.Context(), record.ID, manager.UpgradeRequest{}, func(u store.Upgrade) error {
		if u.Phase != store.UpgradePlanned {
			ended <- u
			return nil
		}
		aborted, err := n.Manager.AbortUpgrade(t.Context(), record.ID, u.ID)
		if aborted.Phase != store.UpgradeRolledBack {
			t.Errorf("aborted: %+v", aborted)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if u := <-ended; u.Phase != store.UpgradeRolledBack {
		t.Errorf("ended %+v", u)
	}
	n.Eventually("the old client serves", func() error { return servedBy(t, n, record) })
	w.AwaitMore(t, 50)
	w.StopAndCheck(t, n)
}

func servedBy(t *testing.T, n *nodetest.Node, old store.Record) error {
	t.Helper()
	now := current(t, n, old.ID)
	if now.State != "Serving" || now.Client.PodUID != old.Client.PodUID || now.Successor != nil || now.SettingsHash != old.SettingsHash {
		return errdefs.ErrUnavailable
	}
	return n.Held(old.ID)
}

func TestWhatTheKernelKnowsIsNotUpgraded(t *testing.T) {
	n := nodetest.NewNode(t)
	record := publish(t, n, "pv-1", n.Target("one"))
	n.SetConfig(volume.Config{MountPodPatch: []volume.Patch{{MountOptions: []string{"max-fuse-io=1M", "cache-size=100"}}}})
	plan, err := n.Manager.PlanUpgrade(record.ID, manager.UpgradeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if plan.CanHandOver || !strings.Contains(plan.Message, "max_read") || strings.Contains(plan.Message, "cache-size") {
		t.Errorf("plan %+v, want max_read to need a new mount", plan)
	}
	nothing := func(store.Upgrade) error { return nil }
	if err := n.Manager.Upgrade(t.Context(), record.ID, manager.UpgradeRequest{}, nothing); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("upgrade: %v, want a failed precondition", err)
	}
	if now := current(t, n, record.ID); now.Upgrade != nil || now.Client != record.Client {
		t.Errorf("the mount has changed: %+v", now)
	}
}

// An upgrade goes on under the next mount manager, at whichever phase it was.
func TestAnUpgradeSurvivesTheManager(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record := publishOlder(t, n, target)
	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 50)
	images := []string{nodetest.Image, olderImage}
	for round, until := range store.UpgradePhases()[:4] {
		image := images[round%2]
		ctx, cancel := context.WithCancel(t.Context())
		err := n.Manager.Upgrade(ctx, record.ID, manager.UpgradeRequest{Image: image}, func(u store.Upgrade) error {
			if u.Phase == until {
				cancel()
			}
			return nil
		})
		cancel()
		if err == nil {
			t.Fatalf("round %d: the upgrade ended before %s", round, until)
		}
		n.StopManager()
		n.StartManager()
		n.Eventually("the upgrade has ended", func() error {
			if now := current(t, n, record.ID); now.Upgrade.Running() || now.State != "Serving" || now.Successor != nil {
				return errdefs.ErrUnavailable
			}
			return n.Held(record.ID)
		})
		now := current(t, n, record.ID)
		committed := now.Upgrade.Phase == store.UpgradeCommitted
		t.Logf("ended at %s: %s, client %s", until, now.Upgrade.Phase, now.Client.Version)
		if committed != (now.Client.Image == image) {
			t.Errorf("ended at %s: %s with the client %s", until, now.Upgrade.Phase, now.Client.Image)
		}
		if !committed { // The next round shall change the image.
			upgrade(t, n, record.ID, manager.UpgradeRequest{Image: image})
		}
		w.AwaitMore(t, 20)
	}
	w.StopAndCheck(t, n)
}
