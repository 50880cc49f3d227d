package provisioner

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller/metrics"
)

// A volume that failed is tried again after firstRetry, and twice as long each
// time: who corrects a Secret sees the claim bound soon after.
const (
	firstRetry    = 2 * time.Second
	lastRetry     = time.Minute
	retriesPerSec = 10
	retryBurst    = 100

	provisionTimeout = time.Minute
	deleteTimeout    = time.Minute
)

// RunOptions say how the provisioner runs.
type RunOptions struct {
	// Workers is how many volumes are made at once, and deleted.
	Workers int
	// Registry gets the metrics of the library.
	Registry prometheus.Registerer
}

// Run makes and deletes volumes until ctx ends, and returns when all workers
// have.
func Run(ctx context.Context, provisioner *Provisioner, options RunOptions) error {
	counted, err := libraryMetrics(options.Registry)
	if err != nil {
		return err
	}
	library := controller.NewProvisionController(ctx, provisioner.Client, provisioner.Installation.DriverName, provisioner,
		controller.LeaderElection(false),
		controller.Threadiness(options.Workers),
		controller.MetricsInstance(counted),
		controller.AddFinalizer(true),
		controller.ProvisionTimeout(provisionTimeout),
		controller.DeletionTimeout(deleteTimeout),
		// Never give up: what is wrong can be corrected at any time.
		controller.FailedProvisionThreshold(0),
		controller.FailedDeleteThreshold(0),
		controller.RateLimiter(workqueue.NewTypedMaxOfRateLimiter(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry),
			&workqueue.TypedBucketRateLimiter[string]{Limiter: rate.NewLimiter(retriesPerSec, retryBurst)},
		)),
	)
	var workers sync.WaitGroup
	library.ControllerWaitGroup(&workers)
	library.Run(ctx)
	workers.Wait()
	return nil
}

// libraryMetrics registers what the library counts.
func libraryMetrics(registry prometheus.Registerer) (metrics.Metrics, error) {
	counted := metrics.New("controller")
	for _, collector := range []prometheus.Collector{
		counted.PersistentVolumeClaimProvisionTotal,
		counted.PersistentVolumeClaimProvisionFailedTotal,
		counted.PersistentVolumeClaimProvisionDurationSeconds,
		counted.PersistentVolumeDeleteTotal,
		counted.PersistentVolumeDeleteFailedTotal,
		counted.PersistentVolumeDeleteDurationSeconds,
	} {
		if err := registry.Register(collector); err != nil {
			return counted, fmt.Errorf("register metrics of the provisioner: %w", err)
		}
	}
	return counted, nil
}
