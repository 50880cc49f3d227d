//go:build kernel

package manager_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
)

// BenchmarkColdPublish publishes volumes that are not mounted yet, with a spare
// that waits and without one. A pod starts much faster here than in a cluster:
// it has no sandbox, network or image.
func BenchmarkColdPublish(b *testing.B) {
	for _, count := range []int{0, 1} {
		b.Run(fmt.Sprintf("spares=%d", count), func(b *testing.B) {
			n := nodetest.NewNode(b)
			restart(n, spare.Options{Count: count})
			coldPublish(b, n, "first")
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				awaitIdle(n, count)
				b.StartTimer()
				took = append(took, coldPublish(b, n, fmt.Sprintf("pv-%d", i)))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
		})
	}
}

func coldPublish(b *testing.B, n *nodetest.Node, volume string) time.Duration {
	b.Helper()
	target := n.Target(volume)
	began := time.Now()
	ctx, cancel := context.WithTimeout(b.Context(), 100*time.Second)
	defer cancel()
	_, _, err := n.Manager.Publish(ctx, manager.PublishRequest{
		VolumeID: volume, TargetPath: target, Attributes: n.Attributes(), Secret: n.Secret("test"),
	})
	took := time.Since(began)
	if err != nil {
		b.Fatalf("publish %s: %v", volume, err)
	}
	b.StopTimer()
	defer b.StartTimer()
	if err := n.Manager.Unpublish(b.Context(), target); err != nil {
		b.Fatal(err)
	}
	n.Eventually("the mount is gone", func() error {
		if left := n.Manager.List(); len(left) > 0 {
			return fmt.Errorf("%d mounts are left", len(left))
		}
		return nil
	})
	return took
}
