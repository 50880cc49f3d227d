//go:build kernel

package manager_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// maxSteps bounds the deaths of one scenario; each has fewer steps.
const maxSteps = 100

// scenario is something that a mount manager does while it dies.
type scenario struct {
	// begin makes it start; it runs in a goroutine that the death may end.
	begin func(ctx context.Context)
	// over fails until it has ended.
	over func() error
	// settle is called under the next mount manager and returns when everything
	// is as it has to be, and ready for the next round.
	settle func(died bool)
	// again makes the next mount manager die as well, at one of its first steps.
	again bool
}

// dieEverywhere runs a scenario again and again with a mount manager that dies
// one step later each time, until it has no further step.
func dieEverywhere(t *testing.T, n *nodetest.Node, s scenario) {
	t.Helper()
	for step := 1; step <= maxSteps; step++ {
		ctx, cancel := context.WithCancel(context.Background())
		begun := make(chan struct{})
		n.KillManagerAt(step)
		go func() {
			defer close(begun)
			s.begin(ctx)
		}()
		died := awaitDeath(t, n, s, begun)
		cancel()
		if died {
			n.StopManager()
			n.StartManager()
		}
		if died && s.again {
			dieAgain(n, 1+step*5%11)
		}
		n.KillManagerAt(0)
		s.settle(died)
		if t.Failed() {
			t.Fatalf("the mount manager died at step %d", step)
		}
		if !died {
			t.Logf("%d steps", step-1)
			return
		}
	}
	t.Errorf("there are more than %d steps", maxSteps)
}

// dieAgain lets the mount manager that takes over die at a step of its own, if
// it comes to that soon.
func dieAgain(n *nodetest.Node, step int) {
	n.KillManagerAt(step)
	soon := time.NewTimer(time.Second)
	defer soon.Stop()
	select {
	case <-n.Died():
		n.StopManager()
		n.StartManager()
	case <-soon.C:
	}
}

// awaitDeath reports false when the scenario has ended without it.
func awaitDeath(t *testing.T, n *nodetest.Node, s scenario, begun <-chan struct{}) bool {
	t.Helper()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	ended := false
	for {
		select {
		case <-n.Died():
			return true
		case <-begun:
			ended, begun = true, nil
		case <-limit.C:
			t.Fatal("neither death nor end")
		case <-ticker.C:
			if ended && s.over() == nil {
				return false
			}
		}
	}
}

// holdsExactly fails unless the node has these mounts and nothing beside them:
// records, secrets, mount pods, descriptors in the vault, mount points.
func holdsExactly(n *nodetest.Node, mounts int) error {
	records := n.Manager.List()
	if len(records) != mounts {
		return fmt.Errorf("%d mounts are recorded, want %d", len(records), mounts)
	}
	pods, err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		if len(records) == 0 || pod.Name != records[0].Client.PodName {
			return fmt.Errorf("mount pod %s is left", pod.Name)
		}
	}
	held, err := n.Manager.Held(context.Background())
	for what, count := range map[string]int{
		"mount pods": len(pods.Items), "descriptors": held, "mount points": n.Entries("volume"), "secrets": n.Entries("private"),
		"running pods": n.Kubelet.Count(),
	} {
		if count != mounts {
			err = errors.Join(err, fmt.Errorf("%d %s, want %d", count, what, mounts))
		}
	}
	return err
}

// serves fails unless there is one mount, which serves, has nothing beside it
// and a client that is not the old one.
func serves(n *nodetest.Node, old store.Record) error {
	if err := holdsExactly(n, 1); err != nil {
		return err
	}
	now := n.Manager.List()[0]
	if now.State != "Serving" || now.Successor != nil || now.Client.PodUID == old.Client.PodUID {
		return fmt.Errorf("state %s, pod %s, successor %v", now.State, now.Client.PodName, now.Successor)
	}
	return nil
}

func request(n *nodetest.Node, target string) manager.PublishRequest {
	return manager.PublishRequest{
		VolumeID: "pv-1", TargetPath: target, Attributes: n.Attributes(), Secret: n.Secret("test"),
	}
}

func unpublishAll(t *testing.T, n *nodetest.Node, targets ...string) {
	t.Helper()
	for _, target := range targets {
		if err := n.Manager.Unpublish(t.Context(), target); err != nil {
			t.Error(err)
		}
	}
	n.Eventually("nothing is left", func() error { return holdsExactly(n, 0) })
}

// A publish that its mount manager did not survive is repeated by kubelet, or
// its pod is deleted meanwhile.
func TestDeathInAPublish(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	target := n.Target("one")
	round := 0
	published := make(chan error, maxSteps)
	dieEverywhere(t, n, scenario{
		begin: func(ctx context.Context) {
			_, _, err := n.Manager.Publish(ctx, request(n, target))
			published <- err
		},
		over: func() error { return nil },
		settle: func(bool) {
			if round++; round%3 != 0 {
				publish(t, n, "pv-1", target)
				write(t, n, filepath.Join(target, "f"), "hello")
				if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
					t.Error(err)
				}
				n.Eventually("it serves", func() error { return serves(n, store.Record{}) })
			}
			unpublishAll(t, n, target)
		},
	})
	close(published)
	var last error
	for last = range published { //nolint:revive // the last one counts
	}
	if last != nil {
		t.Errorf("the publish without death: %v", last)
	}
}

func TestDeathInAnUnpublish(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	target := n.Target("one")
	publish(t, n, "pv-1", target)
	dieEverywhere(t, n, scenario{
		begin: func(ctx context.Context) {
			if err := n.Manager.Unpublish(ctx, target); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		},
		over: func() error { return holdsExactly(n, 0) },
		settle: func(bool) {
			unpublishAll(t, n, target)
			publish(t, n, "pv-1", target)
		},
	})
}

func TestDeathInAFailedStart(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	bad := request(n, n.Target("bad"))
	bad.Secret["storage"] = "nosuch"
	dieEverywhere(t, n, scenario{
		begin: func(ctx context.Context) {
			if _, _, err := n.Manager.Publish(ctx, bad); err == nil {
				t.Error("published")
			}
		},
		over:   func() error { return holdsExactly(n, 0) },
		settle: func(bool) { unpublishAll(t, n, bad.TargetPath) },
	})
}

// withWriter is a published volume with a writer that must see no error.
func withWriter(t *testing.T, n *nodetest.Node) (store.Record, *nodetest.Writer) {
	t.Helper()
	target := n.Target("one")
	record := publish(t, n, "pv-1", target)
	w := nodetest.StartWriter(t, filepath.Join(target, "log"))
	w.AwaitMore(t, 20)
	return record, w
}

func TestDeathInAHandOver(t *testing.T) { dieInAHandOver(t, false) }

func TestTwoDeathsInAHandOver(t *testing.T) { dieInAHandOver(t, true) }

func dieInAHandOver(t *testing.T, again bool) {
	t.Helper()
	t.Parallel()
	n := nodetest.NewNode(t)
	old, w := withWriter(t, n)
	dieEverywhere(t, n, scenario{
		again: again,
		begin: func(ctx context.Context) {
			err := n.Kubelet.Client.CoreV1().Pods(nodetest.Namespace).Delete(ctx, old.Client.PodName, deleteOptions())
			if err != nil {
				t.Error(err)
			}
		},
		over: func() error { return serves(n, old) },
		settle: func(bool) {
			n.Eventually("a successor serves", func() error { return serves(n, old) })
			w.AwaitMore(t, 10)
			old = n.Manager.List()[0]
			// The next one is none of a series.
			n.StopManager()
			n.StartManager()
		},
	})
	w.StopAndCheck(t, n)
}

func TestDeathInAnUpgrade(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	old, w := withWriter(t, n)
	images := map[string]string{nodetest.Image: olderImage, olderImage: nodetest.Image}
	ended := func() error {
		records := n.Manager.List()
		if len(records) != 1 || records[0].State != "Serving" || records[0].Upgrade.Running() {
			return errdefs.ErrUnavailable
		}
		if records[0].Upgrade == nil {
			return nil // Its mount manager died before it was recorded.
		}
		committed := records[0].Upgrade.Phase == store.UpgradeCommitted
		if changed := records[0].Client.Image != old.Client.Image; committed != changed {
			return fmt.Errorf("%s with the client %s", records[0].Upgrade.Phase, records[0].Client.Image)
		}
		return holdsExactly(n, 1)
	}
	dieEverywhere(t, n, scenario{
		begin: func(ctx context.Context) {
			nothing := func(store.Upgrade) error { return nil }
			err := n.Manager.Upgrade(ctx, old.ID, manager.UpgradeRequest{Image: images[old.Client.Image]}, nothing)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		},
		over: ended,
		settle: func(bool) {
			n.Eventually("the upgrade has ended", ended)
			w.AwaitMore(t, 10)
			old = n.Manager.List()[0]
		},
	})
	w.StopAndCheck(t, n)
}

// What a client that is killed had not written is lost in this release, so that
// the promise is for readers, and for whatever is opened after it.
func TestDeathInARecovery(t *testing.T) {
	t.Parallel()
	n := nodetest.NewNode(t)
	target := n.Target("one")
	old := publish(t, n, "pv-1", target)
	write(t, n, filepath.Join(target, "f"), "hello")
	dieEverywhere(t, n, scenario{
		begin: func(context.Context) { n.Kubelet.Kill(old.Client.PodUID) },
		over:  func() error { return serves(n, old) },
		settle: func(bool) {
			if err := read(n, filepath.Join(target, "f"), "hello"); err != nil {
				t.Error(err)
			}
			n.Eventually("another client serves", func() error { return serves(n, old) })
			write(t, n, filepath.Join(target, "g"), "again")
			old = n.Manager.List()[0]
			n.StopManager()
			n.StartManager()
		},
	})
}
