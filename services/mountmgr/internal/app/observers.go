package app

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"

	"github.com/juicefs-csi/driver/libs/task"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/events"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/health"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/metrics"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/stall"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/startuptaint"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// program is the name of this service, as events show it.
const program = "juicefs-csi-mountmgr"

// observers tell the world about the mounts.
type observers struct {
	options Options
	client  kubernetes.Interface
	log     *slog.Logger

	metrics *metrics.Metrics

	events *events.Recorder
	stalls *stall.Sampler
	health *health.Checker
}

// complete gives the manager its events; without Kubernetes it has none.
func (w *observers) complete(parts *manager.Parts) {
	if w.events != nil {
		parts.Events = w.events
	}
}

// newObservers makes what the manager needs; attach adds the rest. Without a
// client nothing is told to Kubernetes.
func newObservers(
	o Options, env environment, client kubernetes.Interface, counters *metrics.Metrics, log *slog.Logger,
) (*observers, error) {
	if client == nil {
		return &observers{options: o, metrics: counters, log: log}, nil
	}
	// Events have a client of their own: they must not use up the requests that
	// mounts may make.
	forEvents, err := kubeClient(o.Kubeconfig, env)
	if err != nil {
		return nil, err
	}
	recorder := events.New(forEvents, events.Options{Node: o.NodeName, Namespace: o.MountNamespace, Controller: program})
	return &observers{options: o, client: client, metrics: counters, log: log, events: recorder}, nil
}

// spareFailed tells of a spare mount pod that there is not; the event is of the
// first failure of several.
func (w *observers) spareFailed(image string, cause error, again bool) {
	w.metrics.SpareFailed()
	if w.events != nil && !again {
		w.events.SpareFailed(image, cause)
	}
}

// attach lets them look at the mounts.
func (w *observers) attach(mounts *manager.Manager, records *store.Store, prober *probe.Prober, registry prometheus.Registerer) error {
	w.stalls = stall.New(stall.Options{
		Mounts: mounts.List, Waiting: kernelmount.Waiting, Log: w.log,
		Ask: func(ctx context.Context, mount store.Record) error {
			_, err := prober.Usage(ctx, mount.ID, mount.MountPath)
			return err
		},
	})
	w.health = health.New(health.Options{
		Ready: mounts.Ready, Write: records.Check,
		Vault: func(ctx context.Context) error {
			_, err := mounts.Held(ctx)
			return err
		},
	})
	for _, each := range []prometheus.Collector{metrics.NewCollector(mounts), w.stalls} {
		if err := registry.Register(each); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// run starts what runs beside the mounts.
func (w *observers) run(group *task.Group) {
	group.Go("stalls", w.stalls.Run)
	if w.client == nil {
		return
	}
	group.Go("events", w.events.Run)
	if w.options.RemoveStartupTaint {
		group.Go("startup taint", startuptaint.New(w.client, startuptaint.Options{
			Node: w.options.NodeName, Driver: w.options.DriverName, Ready: w.health.Check, Log: w.log,
		}).Run)
	}
}
