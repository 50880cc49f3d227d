//go:build kernel

package stall_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/stall"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

// A client that is stopped while an application waits for it stalls, and does
// so no longer when it goes on.
func TestAStoppedClientStalls(t *testing.T) {
	n := nodetest.NewNode(t)
	target := n.Target("one")
	record, _, err := n.Manager.Publish(t.Context(), manager.PublishRequest{
		VolumeID: "pv-1", TargetPath: target, Attributes: n.Attributes(), Secret: n.Secret("test"),
	})
	if err != nil {
		t.Fatal(err)
	}
	prober := probe.New("/proc/self/exe")
	sampler := stall.New(stall.Options{
		Mounts: n.Manager.List, Waiting: kernelmount.Waiting, Log: slog.New(slog.DiscardHandler),
		Ask: func(ctx context.Context, mount store.Record) error {
			_, err := prober.Usage(ctx, mount.ID, mount.MountPath)
			return err
		},
	})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(sampler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sampler.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	requests, stalled := "waiting_requests "+record.ID, "stall_seconds_total "+record.ID

	stop(t, n, record, syscall.SIGSTOP)
	application := exec.CommandContext(t.Context(), "stat", "-f", target)
	if err := application.Start(); err != nil {
		t.Fatal(err)
	}
	n.Eventually("two seconds of it are counted", func() error {
		if got := series(t, registry); got[requests] < 1 || got[stalled] < 2 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	stop(t, n, record, syscall.SIGCONT)
	if err := application.Wait(); err != nil {
		t.Error(err)
	}
	n.Eventually("nothing waits", func() error {
		if got := series(t, registry); got[requests] > 0 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	before := series(t, registry)[stalled]
	<-time.After(3 * time.Second) // Three samples.
	if after := series(t, registry)[stalled]; after != before {
		t.Errorf("%v s are counted, %v s when it went on", after, before)
	}
}

// stop sends a signal to everything that runs in the mount pod but PID 1.
func stop(t *testing.T, n *nodetest.Node, record store.Record, signal syscall.Signal) {
	t.Helper()
	pid := fmt.Sprint(n.Kubelet.PID(record.Client.PodUID))
	// pkill fails when there is none.
	if err := exec.CommandContext(t.Context(), "pkill", "-"+fmt.Sprint(int(signal)), "-P", pid).Run(); err != nil {
		t.Fatal(errors.Join(fmt.Errorf("signal the children of %s", pid), err))
	}
}
